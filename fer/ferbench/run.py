"""Running one model on files of questions: pending items, inference, and results files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer.data.vqa.questions import ImageRoot, parse_question, read_objects
from fer.errors import BadRow, UserError
from fer.ferbench.datasets import check_true_labels, identify_dataset
from fer.ferbench.options import BenchmarkModel, FerbenchRunConfig, GenerationOptions
from fer.ferbench.results import RECORD, error_row, response_row, write_results
from fer.ferbench.training_images import count_training_images
from fer.inference.base import SamplingParams
from fer.inference.batch import BatchItem, InferenceConfig, run_batch
from fer.inference.journal import Usage, read_journal
from fer.registry import locate_model
from fer.storage import absolute, open_path
from fer.tracking import TrackingOptions
from fer.training.run import commit, versions
from fer.vlm.model import for_workers

if TYPE_CHECKING:
    from upath import UPath

JOURNAL = "journal"


@dataclass(frozen=True)
class QuestionsFile:
    """A file of questions: its rows with a plain ``true_label``, and the corresponding items for inference."""

    name: str
    rows: list[dict[str, Any]]
    items: list[BatchItem]
    fingerprint: str


def read_questions_files(locations: Sequence[str]) -> list[QuestionsFile]:
    """Raises UserError for two files of one name, and names the first row that is invalid or can't be evaluated."""
    files = [_read_questions_file(location) for location in locations]
    names = [file.name for file in files]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UserError(f"--questions: two files are named {repeated[0]}, so their results would be too; rename one")
    return files


def _read_questions_file(location: str) -> QuestionsFile:
    name = Path(location).stem
    rows: list[dict[str, Any]] = []
    items = []
    for number, raw in enumerate(read_objects(location), 1):
        try:
            if isinstance(raw, BadRow):
                raise raw
            question = parse_question(raw)
        except BadRow as error:
            raise UserError(f"{location}, row {number}: {error}") from None
        label = question.answer or question.turns[-1].response
        if not label or not question.candidate_labels:
            raise UserError(f"{location}, row {number}: no true_label or no candidate_labels to evaluate against")
        if len(question.turns) > 2:
            raise UserError(f"{location}, row {number}: {len(question.turns)} turns; at most two are supported")
        rows.append({**raw, "true_label": label})
        prompt, two_turns = question.turns[0].prompt, len(question.turns) == 2
        items.append(BatchItem(f"{name}:{number}", question.path, prompt, question.candidate_labels, two_turns))
    if not rows:
        raise UserError(f"{location} has no questions")
    labels = [row["true_label"] for row in rows]
    candidates = {label for item in items for label in item.labels}
    check_true_labels(location, identify_dataset(candidates, labels), labels)
    content = json.dumps([asdict(item) for item in items]) + json.dumps(labels)
    return QuestionsFile(name, rows, items, hashlib.sha256(content.encode()).hexdigest())


def check_images(files: Sequence[QuestionsFile], config: FerbenchRunConfig) -> None:
    """Raise UserError if so many images are missing that ``--image-root`` is probably wrong."""
    images = ImageRoot(config.image_root)
    paths = [item.path for file in files for item in file.items]
    missing = []
    for path in paths:
        try:
            images.find(path)
        except BadRow:
            missing.append(path)
    if len(missing) > config.max_bad_fraction * len(paths):
        raise UserError(
            f"{len(missing):,} of {len(paths):,} images are not under --image-root {config.image_root}, such as "
            f"{missing[0]}; name the folder or zip that holds them, or allow it with --max-bad-fraction"
        )


def run_model(
    model: BenchmarkModel, kind: str, path: str, files: Sequence[QuestionsFile], config: FerbenchRunConfig
) -> Iterator[int]:
    """Run a model on all items that have no response yet, and write its results; yields the items just completed.

    ``kind`` and ``path`` are those of `resolve_kind`. Items with an error in an earlier session are retried: their
    images may have been repaired.
    """
    folder = open_path(absolute(config.out)) / str(model.name)
    entries, _ = read_journal(folder / JOURNAL)
    completed = {key for key, entry in entries.items() if "error" not in entry}
    pending = [item for file in files for item in file.items if item.key not in completed]
    trained = 0
    if kind == "classifier":
        paths = list(dict.fromkeys(item.path for file in files for item in file.items))
        trained = count_training_images(Path(path), paths, ImageRoot(config.image_root), config.allow_training_rows)
    record = open_record(folder, model, files, config, kind) | {"trained_images": trained}
    if pending:
        yield sum(len(file.items) for file in files) - len(pending)
        inference = InferenceConfig(
            kind=kind,  # type: ignore[arg-type]
            model=_for_workers(str(model.model), kind, path, config),
            image_root=absolute(config.image_root),
            image_size=config.image_size,
            sampling=SamplingParams(
                temperature=0,
                max_new_tokens=config.max_new_tokens,
                guided=config.guided,
                model_penalty=config.protocol == "unifer",
            ),
            journal=str(folder / JOURNAL),
            tracking=TrackingOptions(storage=absolute(config.storage), tracking_uri=config.tracking_uri),
            endpoint=model.endpoint or "",
            concurrency=model.concurrency,
            requests_per_minute=model.requests_per_minute,
            trust_remote_code=model.trust_remote_code,
            device=config.device,
            dtype="float32" if config.protocol == "unifer" else "auto",
        )
        yield from run_batch(pending, inference, config.workers)
    write_model_results(folder, files, record, model)


def _for_workers(name: str, kind: str, path: str, config: FerbenchRunConfig) -> str:
    """What the workers get a model by, on hosts that may not see this one's folders."""
    if kind == "endpoint":
        return path
    if kind == "classifier" and not name.startswith(("models:/", "runs:/")):
        return absolute(locate_model(name, config))  # a run's name may stand for a URI
    return for_workers(name, path)


def open_record(
    folder: UPath, model: BenchmarkModel, files: Sequence[QuestionsFile], config: FerbenchRunConfig, kind: str
) -> dict[str, Any]:
    """Create or continue `run.json` of a model. Raises UserError if the run there has other settings or questions."""
    generation = config.model_dump(include=set(GenerationOptions.model_fields))
    settings = {"model": model.model, "endpoint": model.endpoint, "kind": kind, **generation}
    fingerprints = {file.name: file.fingerprint for file in files}
    path = folder / RECORD
    if not path.exists():
        record = {"name": model.name, "settings": settings, "questions": fingerprints}
        record |= {"versions": versions(), "commit": commit()}
    else:
        record = json.loads(path.read_text())
        changed = _changed_keys(record["settings"], settings) + _changed_keys(record["questions"], fingerprints)
        if changed:
            raise UserError(
                f"{folder} holds results of other settings or questions ({', '.join(changed)}); give another --out or "
                "--name"
            )
        record["questions"] |= fingerprints
    record["image_root"] = absolute(config.image_root)
    _write_record(folder, record)
    return record


def _changed_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [name for name, value in now.items() if name in before and before[name] != value]


def write_model_results(
    folder: UPath, files: Sequence[QuestionsFile], record: dict[str, Any], model: BenchmarkModel
) -> None:
    """Write a results file for each file of questions, in its order, and the usage into `run.json`."""
    entries, usage = read_journal(folder / JOURNAL)
    for file in files:
        rows = (_result_row(row, entries[item.key]) for row, item in zip(file.rows, file.items, strict=True))
        write_results(rows, folder / f"{file.name}.json")
    _write_record(folder, record | {"usage": asdict(usage) | {"cost": _cost(usage, model)}})


def _result_row(row: dict[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    if "error" in entry:
        return error_row(row, entry["error"])
    return response_row(row, entry["responses"], entry["prompt_tokens"], entry["completion_tokens"])


def _cost(usage: Usage, model: BenchmarkModel) -> float:
    tokens = usage.prompt_tokens * model.price_in + usage.completion_tokens * model.price_out
    return usage.engine_seconds / 3600 * model.price_per_hour + tokens / 1e6


def _write_record(folder: UPath, record: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).write_text(json.dumps(record, indent=2, ensure_ascii=False))
