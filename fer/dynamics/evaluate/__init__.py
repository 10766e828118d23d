"""Evaluation of a dynamics model on labelled frames: metrics of each stage, results on disk, report."""
