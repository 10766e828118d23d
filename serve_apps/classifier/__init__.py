"""Expressions of the faces in images."""
