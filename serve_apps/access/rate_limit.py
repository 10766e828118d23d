"""How many requests a key may still make."""

from __future__ import annotations

BURST_SECONDS = 10
"""A key that was not used for this long may make the requests of this long at once."""
ROUNDING = 1e-9


class TokenBucket:
    """A token bucket: it fills at the key's rate, and each request takes one token. It starts full.

    Each replica has a bucket of its own for its share of the rate.
    """

    def __init__(self, requests_per_minute: float) -> None:
        self.per_second = requests_per_minute / 60
        self.tokens = float("inf")  # as many as fit
        self.filled = 0.0

    def take(self, now: float, share: float = 1.0) -> float:
        """Take a token: 0.0; if there is none, the seconds until there is one. ``now`` is in seconds and never falls.

        ``share`` is this replica's part of the rate. It always gets room for one token.
        """
        per_second = share * self.per_second
        room = max(1.0, BURST_SECONDS * per_second)
        self.tokens = min(room, self.tokens + (now - self.filled) * per_second)
        self.filled = now
        if self.tokens < 1 - ROUNDING:
            return (1 - self.tokens) / per_second
        self.tokens -= 1
        return 0.0
