"""Building questions from labelled faces: one builder per kind of training or test file, for any data set of faces."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fer.data.mapping import map_rows
from fer.data.rejected import RejectedRows
from fer.data.schema import FaceRow
from fer.data.sources import open_source
from fer.data.splits import assign_splits
from fer.data.vqa.options import QuestionsConfig
from fer.data.vqa.prompts import ferbench_prompt, first_turn_prompt, second_turn_prompt, template_response
from fer.data.vqa.questions import ImageRoot
from fer.errors import BadRow, UserError
from fer.labels import LabelSpace, compound_parts, get_space

Builder = Callable[[FaceRow, LabelSpace], dict[str, Any]]


def ferbench_row(row: FaceRow, space: LabelSpace) -> dict[str, Any]:
    """A row in the form of FERBench's question files."""
    return {
        "image_path": row.path,
        "true_label": row.label,
        "prompt": ferbench_prompt(space.labels),
        "candidate_labels": list(space.labels),
    }


def grpo_row(row: FaceRow, space: LabelSpace) -> dict[str, Any]:
    """A row in the form of UniFER-RLVR-360K."""
    return {
        "image_path": row.path,
        "problem": ferbench_prompt(space.labels),
        "solution": f"<answer>{row.label}</answer>",
        "candidate_labels": list(space.labels),
    }


def sft_row(row: FaceRow, space: LabelSpace) -> dict[str, Any]:
    """A row in the form of UniFER-CoT-230K, with a template response that teaches the format only."""
    key = int.from_bytes(hashlib.sha256(row.path.encode()).digest()[:4])
    return {
        "image_path": row.path,
        "question": ferbench_prompt(space.labels),
        "response": template_response(str(row.label), key),
        "candidate_labels": list(space.labels),
    }


def chain_of_affect_row(row: FaceRow, space: LabelSpace) -> dict[str, Any]:
    """A conversation of Chain-of-Affect: one turn for a basic label, two for a compound label of RAF-DB.

    A compound label such as "happily surprised" names two basic expressions. RAF-DB does not say which is stronger. The
    second word is the first response, and the adverb the second response; evaluation compares them as a set.
    """
    basic = get_space("rafdb").labels
    if space.name != "rafdb-compound":
        turns = [{"question": first_turn_prompt(space.labels), "response": row.label}]
        return {"image_path": row.path, "turns": turns, "candidate_labels": list(space.labels)}
    second, first = compound_parts(str(row.label))
    turns = [
        {"question": first_turn_prompt(basic), "response": first},
        {"question": second_turn_prompt(first, basic), "response": second},
    ]
    return {"image_path": row.path, "turns": turns, "answer": row.label, "candidate_labels": list(basic)}


BUILDERS: Mapping[str, Builder] = {
    "ferbench": ferbench_row,
    "grpo": grpo_row,
    "sft": sft_row,
    "chain-of-affect": chain_of_affect_row,
}


def load_faces(config: QuestionsConfig) -> tuple[LabelSpace, Iterator[FaceRow]]:
    """The label space, and the usable rows of the selected split, shuffled by the seed.

    The splits equal those of `fer train` for the same data and options. Raises UserError for too many bad rows, an
    empty split, and images that a question can't name.
    """
    source = open_source(config)
    space = get_space(config.label_space) if config.label_space else source.space
    rejected = RejectedRows(config)
    rows = rejected.filter(map_rows(source.rows(), source.space, space))
    usable = sorted(rows, key=lambda row: row.path)
    rejected.check_bad_fraction()
    rejected.remove_stale()
    if skipped := sum(rejected.counts.values()):
        print(f"skipped {skipped} of {skipped + len(usable)} rows; `fer prepare` lists them with their reasons")
    splits = assign_splits(usable, val_split=config.val_split, test_split=config.test_split, seed=config.split_seed)
    selected = [row for row, split in zip(usable, splits, strict=True) if config.split in ("all", split)]
    if not selected:
        raise UserError(f"{config.data} has no rows in its {config.split} split")
    _check_images(config.data, selected)
    selected.sort(key=lambda row: hashlib.sha256(f"{config.split_seed}/{row.path}".encode()).digest())
    return space, iter(selected[: config.limit or None])


def _check_images(data: str, rows: Sequence[FaceRow]) -> None:
    """Raise UserError unless the images are files of the data set, which a question can name by its path."""
    if any(row.cropped for row in rows):
        raise UserError(
            f"{data}: its faces are cut out of photographs, and a question would name the whole photograph; give a "
            "folder or zip of face images"
        )
    images = ImageRoot(data)
    for row in rows:
        with suppress(BadRow):
            images.find(row.path)
            return
    raise UserError(
        f"{data} has no image files that a question could name: they are missing, in a table, in a zip inside it or in "
        "other data sets; give a folder or zip of face images"
    )


def write_jsonl(rows: Iterator[dict[str, Any]], out: str) -> int:
    """Write rows as JSON lines; return their number. The folder of ``out`` is created."""
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    with open(out, "w", encoding="utf-8") as file:
        return sum(file.write(json.dumps(row, ensure_ascii=False) + "\n") > 0 for row in rows)
