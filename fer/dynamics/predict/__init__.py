"""Scores of facial dynamics for videos and folders of frames."""
