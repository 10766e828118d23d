"""Free ports of this machine, which no other program takes before they are used."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

PORTS = range(20_000, 30_000)
"""Nothing of Ray is there by default, and no outgoing connection."""


def free_port() -> int:
    """A port on which nothing listens. Two processes that ask at the same time hardly get the same one."""
    while True:
        port = random.SystemRandom().choice(PORTS)  # not that of another process with the same seed
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("", port))
            return port
