"""Evaluation of a classifier on labelled data: metrics, results on disk, report."""
