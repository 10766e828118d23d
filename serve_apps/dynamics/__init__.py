"""Scores of facial movement."""
