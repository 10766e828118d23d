"""Prediction for images, folders and videos: reading files, tracking faces, writing tables."""
