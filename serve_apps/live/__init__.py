"""Faces in live video, over a WebSocket."""
