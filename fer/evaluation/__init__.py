"""Evaluation of any model: metrics with bootstrap intervals, plots and the HTML report."""
