"""Evaluation of a classifier on labelled data: metrics, output files and report."""
