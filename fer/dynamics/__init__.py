"""Facial dynamics and synkinesis: how far a face moves, and how much the wrong parts move with it. Research scores."""
