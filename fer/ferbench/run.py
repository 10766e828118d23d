"""One model answers files of questions: what is left to ask, who answers, and the results files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fer.data.vqa.questions import ImageRoot, parse_question, read_objects
from fer.errors import BadRow, UserError
from fer.ferbench.models import locate_model
from fer.ferbench.options import AskingOptions, JudgedModel, RunConfig
from fer.ferbench.results import RUN, answered, failed, write_results
from fer.inference.base import SamplingParams
from fer.inference.batch import BatchItem, InferenceConfig, run_batch
from fer.inference.journal import Usage, read_journal
from fer.training.run import commit, versions

JOURNAL = "journal"


@dataclass(frozen=True)
class QuestionsFile:
    """A file of questions: its rows as they stand in it with the label made plain, and as they are asked."""

    name: str
    rows: list[dict[str, Any]]
    asked: list[BatchItem]
    fingerprint: str


def read_questions_files(locations: Sequence[str]) -> list[QuestionsFile]:
    """Raises UserError that names the first row that can't be asked or can't be judged, and for two files of a name."""
    files = [_read(location) for location in locations]
    names = [file.name for file in files]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"--questions: two files are called {twice[0]}, and so would their results be; rename one")
    return files


def _read(location: str) -> QuestionsFile:
    name = Path(location).stem
    rows: list[dict[str, Any]] = []
    asked = []
    for number, raw in enumerate(read_objects(location), 1):
        try:
            if isinstance(raw, BadRow):
                raise raw
            question = parse_question(raw)
        except BadRow as error:
            raise UserError(f"{location}, row {number}: {error}") from None
        label = question.answer or question.turns[-1].response
        if not label or not question.candidate_labels:
            raise UserError(f"{location}, row {number}: no true_label or no candidate_labels, so it can't be judged")
        if len(question.turns) > 2:
            raise UserError(f"{location}, row {number}: {len(question.turns)} turns; conversations have one or two")
        rows.append({**raw, "true_label": label})
        prompt, two = question.turns[0].prompt, len(question.turns) == 2
        asked.append(BatchItem(f"{name}:{number}", question.path, prompt, question.candidate_labels, two))
    if not rows:
        raise UserError(f"{location} holds no questions")
    content = json.dumps([asdict(question) for question in asked]) + json.dumps([row["true_label"] for row in rows])
    return QuestionsFile(name, rows, asked, hashlib.sha256(content.encode()).hexdigest())


def check_images(files: Sequence[QuestionsFile], config: RunConfig) -> None:
    """Raise UserError where so many images are missing that ``--image-root`` is probably a mistake."""
    images = ImageRoot(config.image_root)
    paths = [question.path for file in files for question in file.asked]
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


def answer_questions(model: JudgedModel, files: Sequence[QuestionsFile], config: RunConfig) -> Iterator[int]:
    """Let one model answer what it has not answered yet, then write its results; yields how many more are done.

    Errors of an earlier session are tried again: an image may have been mended since.
    """
    folder = Path(config.out).absolute() / str(model.name)
    found, _ = read_journal(folder / JOURNAL)
    known = {key for key, line in found.items() if "error" not in line}
    left = [question for file in files for question in file.asked if question.key not in known]
    kind, place = locate_model(model, config)
    record = open_record(folder, model, files, config, kind)
    if left:
        yield sum(len(file.asked) for file in files) - len(left)
        inference = InferenceConfig(
            kind=kind,  # type: ignore[arg-type]
            model=place,
            image_root=config.image_root if "://" in config.image_root else str(Path(config.image_root).absolute()),
            image_size=config.image_size,
            sampling=SamplingParams(temperature=0, max_new_tokens=config.max_new_tokens, guided=config.guided),
            journal=str(folder / JOURNAL),
            endpoint=model.endpoint or "",
            concurrency=model.concurrency,
            requests_per_minute=model.requests_per_minute,
            trust_remote_code=model.trust_remote_code,
            device=config.device,
        )
        yield from run_batch(left, inference, config.workers)
    finish(folder, files, record, model)


def open_record(
    folder: Path, model: JudgedModel, files: Sequence[QuestionsFile], config: RunConfig, kind: str
) -> dict[str, Any]:
    """`run.json` of a model's folder, made or continued. Raises UserError where its answers would not be like these."""
    asking = config.model_dump(include=set(AskingOptions.model_fields))
    settings = {"model": model.model, "endpoint": model.endpoint, "kind": kind, **asking}
    fingerprints = {file.name: file.fingerprint for file in files}
    path = folder / RUN
    if not path.exists():
        record = {"name": model.name, "settings": settings, "questions": fingerprints}
        record |= {"versions": versions(), "commit": commit()}
    else:
        record = json.loads(path.read_text())
        changed = _changed(record["settings"], settings) + _changed(record["questions"], fingerprints)
        if changed:
            raise UserError(
                f"{folder} holds answers to other questions or of other settings ({', '.join(changed)}); give another "
                "--out or --name"
            )
        record["questions"] |= fingerprints
    record["image_root"] = str(Path(config.image_root).absolute())
    _write_record(folder, record)
    return record


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [name for name, value in now.items() if name in before and before[name] != value]


def finish(folder: Path, files: Sequence[QuestionsFile], record: dict[str, Any], model: JudgedModel) -> None:
    """Write a results file for each file of questions, in their order, and what the answers took into `run.json`."""
    found, usage = read_journal(folder / JOURNAL)
    for file in files:
        rows = (_result(row, found[asked.key]) for row, asked in zip(file.rows, file.asked, strict=True))
        write_results(rows, folder / f"{file.name}.json")
    _write_record(folder, record | {"usage": asdict(usage) | {"cost": _cost(usage, model)}})


def _result(row: dict[str, Any], line: Mapping[str, Any]) -> dict[str, Any]:
    if "error" in line:
        return failed(row, line["error"])
    return answered(row, line["responses"], line["prompt_tokens"], line["completion_tokens"])


def _cost(usage: Usage, model: JudgedModel) -> float:
    tokens = usage.prompt_tokens * model.price_in + usage.completion_tokens * model.price_out
    return usage.engine_seconds / 3600 * model.price_per_hour + tokens / 1e6


def _write_record(folder: Path, record: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RUN).write_text(json.dumps(record, indent=2, ensure_ascii=False))
