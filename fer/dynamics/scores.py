"""The two scores, their ranges, and the disclaimer that every output carries."""

from __future__ import annotations

SCORES = {"dynamics": 5, "synkinesis": 3}
"""The highest level of each score; the lowest is 0."""

DISCLAIMER = (
    "Research scores of facial movement, estimated by a statistical model: `dynamics` (0 to 5) is how far the face "
    "moves, `synkinesis` (0 to 3) how much other parts of it move involuntarily. They are not a diagnosis and must not "
    "guide treatment."
)

SHORT_DISCLAIMER = "research score, not a diagnosis"
"""For tables and plots."""
