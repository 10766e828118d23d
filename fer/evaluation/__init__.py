"""Judging models: metrics with intervals, plots and the HTML report."""
