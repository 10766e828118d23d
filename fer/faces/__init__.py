"""Faces in images: detection, alignment and cropping."""
