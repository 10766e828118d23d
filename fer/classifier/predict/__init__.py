"""Prediction for images, folders and videos: reading files, running the model, tracking faces, writing rows."""
