"""Scores of videos and of folders of frames."""
