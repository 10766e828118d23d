"""Ferry: facial expression recognition on Ray. The library knows no job and no server."""

__version__ = "0.1.0"
