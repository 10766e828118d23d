"""The frame of every model card (Mitchell et al., Model Cards for Model Reporting, FAT* 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

INTENDED_USE = """\
## Intended use

Research and tools that describe the **apparent expression** in images of consenting people's faces: sorting image
collections, animation, interface experiments, studies with consent, comparison with other models.

## Out of scope

- Inferring what somebody feels, thinks or intends: a face does not show that reliably (Barrett et al., Psychological
  Science in the Public Interest, 2019).
- Decisions about people: hiring, work, education, credit, insurance, policing, border control, lie detection,
  diagnosis.
- Inferring emotions at work or in education, which is prohibited in the European Union except for medical or safety
  reasons (Regulation (EU) 2024/1689, Art. 5(1)(f)); other emotion recognition is high-risk there (Annex III), and
  people must be informed of it (Art. 50(3)).
- Identifying people.
"""


def render_card(
    title: str, summary: str, facts: Mapping[str, str | None], metrics: Sequence[str], *sections: str
) -> str:
    """A model card in Markdown; ``facts`` become a table, without those that are None, and ``metrics`` are lines."""
    table = [f"| {name} | {fact} |" for name, fact in facts.items() if fact]
    head = [f"# {title}", "", summary, "", "| | |", "|---|---|", *table, ""]
    return "\n".join([*head, "## Metrics", "", *metrics, "", *sections])
