"""Options of the application `live`."""

from __future__ import annotations

from pydantic import Field

from serve_apps.options import KeyOptions


class LiveConfig(KeyOptions):
    """Classify frames that arrive over a WebSocket, with the application `classifier`."""

    max_connections: int = Field(32, ge=1, description="Connections to each replica, at most")
    max_frame_bytes: int = Field(2**20, ge=1, description="Largest encoded frame, in bytes")
    idle_seconds: float = Field(
        60, gt=0, description="Close a connection that sends no frame and waits for no answer for this long, in seconds"
    )
