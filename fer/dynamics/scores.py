"""The two scores, their ranges, and what must be said with each of them."""

from __future__ import annotations

SCORES = {"dynamics": 5, "synkinesis": 3}
"""Each score's highest level; the lowest is 0."""

NOTICE = (
    "Research scores of facial movement, estimated by a statistical model: `dynamics` (0 to 5) says how far the face "
    "moves, `synkinesis` (0 to 3) how much other parts move with it. They are not a diagnosis and must not guide "
    "treatment."
)

NOTE = "research score, not a diagnosis"
"""The same in few words, for tables and pictures."""
