"""Facial dynamics and synkinesis: how far a face moves, and how much other parts of it move involuntarily."""
