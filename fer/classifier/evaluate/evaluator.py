"""Judging a classifier on one split of a data set: streams the shards, scores every row, and measures."""

from __future__ import annotations

import heapq
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel
from tqdm import tqdm

from fer.classifier.predictor import Predictions, Predictor
from fer.data.images import decode_rgb
from fer.data.manifest import ShardedDataset
from fer.errors import BadRow, UserError
from fer.evaluation.metrics import ClassificationMetrics, RegressionMetrics, classification_metrics, regression_metrics
from fer.labels import map_labels

WORST = 24
FACTS = ["path", "group", "label", "valence", "arousal"]
AFFECT = ("valence", "arousal")


class Coverage(BaseModel):
    """Which rows were judged, and why the others were not."""

    split: str
    split_rows: int
    filter: str | None
    filtered: int = 0
    """Rows whose path the filter does not match."""
    rows: int = 0
    """Rows that were scored."""
    mapping: dict[str, str | None]
    """Each label of the data to the model's label; empty for a model without an expression head."""
    unknown_labels: Counter[str] = Counter()
    """Rows left out of the expression figures because the model has no such label, by label."""
    unreadable: list[tuple[str, str]] = []
    """Path and reason of each row whose image can't be decoded."""
    missing_classes: list[str] = []
    """Labels of the model that no judged row has."""
    predicted_missing: int = 0
    """Predictions of such a label; each counts as a mistake."""


@dataclass(order=True)
class Mistake:
    """A row that the model got wrong, or estimated far off."""

    severity: float
    """Confidence in the wrong label; for valence-arousal, the distance from the true point."""
    path: str
    true: str
    predicted: str
    image: bytes = field(repr=False)


@dataclass
class Evaluation:
    """Everything that was measured of one model on one split."""

    coverage: Coverage
    expression: ClassificationMetrics | None
    affect: dict[str, RegressionMetrics]
    """`valence` and `arousal`; empty where the model or the data has none."""
    predictions: pa.Table
    """One row for each scored row: path, true values, predicted ones and probabilities."""
    mistakes: list[Mistake]
    """The worst first."""


def default_split(dataset: ShardedDataset) -> str:
    """`test` where the data set has it, else `val`."""
    return "test" if "test" in dataset.manifest.splits else "val"


def evaluate(
    predictor: Predictor,
    dataset: ShardedDataset,
    split: str,
    pattern: str | None = None,
    seed: int = 0,
    max_bad_fraction: float = 0.01,
) -> Evaluation:
    """Score every row of ``split`` whose path matches the glob ``pattern``; ``seed`` is the bootstrap's.

    Labels are mapped into the model's space; rows without a counterpart are left out and counted. Images are held for
    two batches at a time. Raises UserError if nothing is left to judge, or too many images are unreadable.
    """
    rows = dataset.split(split).rows
    mapping = map_labels(dataset.manifest.space, predictor.space) if predictor.has_expression else {}
    judge = _Judge(predictor, Coverage(split=split, split_rows=rows, filter=pattern, mapping=mapping))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, tqdm(total=rows, unit="row", disable=None) as bar:
        tables = (judge.wanted(table) for table in _read(dataset, split, predictor.batch_size, bar))
        for table, images in _decoded(tables, pool):
            judge.score(table, images)
    judge.check(max_bad_fraction)
    return judge.result(seed)


class _Judge:
    """Predictions batches, and keeps what the figures need of them: everything but the images."""

    def __init__(self, predictor: Predictor, coverage: Coverage) -> None:
        self.predictor, self.coverage = predictor, coverage
        self.facts: list[pa.Table] = []
        self.scores: list[Predictions] = []
        self.worst: list[Mistake] = []

    def wanted(self, table: pa.Table) -> pa.Table:
        """The rows that can be judged, with the model's label for each in the column ``true``; counts the others."""
        coverage = self.coverage
        if coverage.filter is not None:
            matches = [fnmatchcase(path, coverage.filter) for path in table["path"].to_pylist()]
            coverage.filtered += matches.count(False)
            table = table.filter(pa.array(matches, pa.bool_()))
        labels = table["label"].to_pylist()
        true = [coverage.mapping[label] if coverage.mapping else None for label in labels]
        if coverage.mapping:
            coverage.unknown_labels.update(label for label, known in zip(labels, true, strict=True) if known is None)
        table = table.append_column("true", pa.array(true, pa.string()))
        judged = np.array([label is not None for label in true], bool)
        if self.predictor.has_affect:
            judged |= ~np.isnan(_affect(table)).all(axis=1)
        return table.filter(pa.array(judged))

    def score(self, table: pa.Table, images: list[np.ndarray | BadRow]) -> None:
        readable = pa.array([not isinstance(image, BadRow) for image in images], pa.bool_())
        faults = zip(table["path"].to_pylist(), images, strict=True)
        self.coverage.unreadable += [(path, str(fault)) for path, fault in faults if isinstance(fault, BadRow)]
        table = table.filter(readable)
        scores = self.predictor.predict([image for image in images if not isinstance(image, BadRow)])
        self.worst = heapq.nlargest(WORST, self.worst + self._mistakes(table, scores))
        self.facts.append(table.drop_columns("image"))
        self.scores.append(scores)
        self.coverage.rows += len(table)

    def check(self, max_bad_fraction: float) -> None:
        coverage, predictor = self.coverage, self.predictor
        if coverage.unreadable and len(coverage.unreadable) > max_bad_fraction * (
            coverage.rows + len(coverage.unreadable)
        ):
            path, reason = coverage.unreadable[0]
            raise UserError(
                f"{len(coverage.unreadable)} images can't be read ({path}: {reason}); make the shards again with "
                "`fer prepare`, or allow them with --max-bad-fraction"
            )
        if coverage.rows:
            return
        if coverage.filtered == coverage.split_rows:
            raise UserError(f"--filter: no path of the split {coverage.split!r} matches {coverage.filter!r}")
        if predictor.has_expression:
            known, given = ", ".join(predictor.labels), ", ".join(coverage.mapping)
            raise UserError(f"the model knows none of the data's labels ({given}); it knows {known}")
        raise UserError("the model estimates valence and arousal only, and the data has no such values")

    def result(self, seed: int) -> Evaluation:
        facts = pa.concat_tables(self.facts)
        groups = facts["group"].to_pylist()
        expression, affect = None, {}
        columns = {name: facts[name] for name in ("path", "group", "label", "true")}
        if self.predictor.has_expression:
            probabilities = _join([scores.probabilities for scores in self.scores])
            expression = self._expression(facts["true"].to_pylist(), probabilities, groups, seed)
            best = probabilities.argmax(axis=1)
            columns["predicted"] = pa.array([self.predictor.labels[index] for index in best])
            columns["confidence"] = pa.array(probabilities.max(axis=1))
            columns |= {f"p_{label}": pa.array(probabilities[:, k]) for k, label in enumerate(self.predictor.labels)}
        if self.predictor.has_affect:
            true, estimated = _affect(facts), _join([scores.valence_arousal for scores in self.scores])
            for k, name in enumerate(AFFECT):
                columns |= {name: facts[name], f"estimated_{name}": pa.array(estimated[:, k])}
                if not np.isnan(true[:, k]).all():
                    affect[name] = regression_metrics(true[:, k], estimated[:, k], groups, seed)
        mistakes = sorted(self.worst, reverse=True)
        return Evaluation(self.coverage, expression, affect, pa.table(columns), mistakes)

    def _expression(
        self, true: list[str | None], probabilities: np.ndarray, groups: list[str | None], seed: int
    ) -> ClassificationMetrics | None:
        labels = self.predictor.labels
        known = [row for row, label in enumerate(true) if label is not None]
        if not known:
            return None
        indices = np.array([labels.index(true[row]) for row in known])
        figures = classification_metrics(labels, indices, probabilities[known], [groups[row] for row in known], seed)
        missing = [each for each in figures.classes if not each.support]
        self.coverage.missing_classes = [each.label for each in missing]
        self.coverage.predicted_missing = sum(each.predicted for each in missing)
        return figures

    def _mistakes(self, table: pa.Table, scores: Predictions) -> list[Mistake]:
        """Wrong labels; or, where the model gives none, valence-arousal estimates with their distances."""
        paths, true, images = table["path"].to_pylist(), table["true"].to_pylist(), table["image"]
        found = []
        if scores.probabilities is not None:
            best = [self.predictor.labels[index] for index in scores.probabilities.argmax(axis=1)]
            wrong = [row for row, label in enumerate(true) if label is not None and label != best[row]]
            severity = scores.probabilities.max(axis=1)
        else:
            assert scores.valence_arousal is not None
            points = _affect(table)
            true, best = [[f"({v:+.2f}, {a:+.2f})" for v, a in each] for each in (points, scores.valence_arousal)]
            severity = np.linalg.norm(points - scores.valence_arousal, axis=1)
            wrong = np.flatnonzero(~np.isnan(severity)).tolist()
        for row in heapq.nlargest(WORST, wrong, key=lambda row: severity[row]):
            found.append(Mistake(float(severity[row]), paths[row], true[row], best[row], images[row].as_py()))
        return found


def _read(dataset: ShardedDataset, split: str, batch_size: int, bar: tqdm) -> Iterator[pa.Table]:
    for shard in dataset.split(split).shards:
        with fsspec.open(dataset.path(shard), "rb") as file:
            for batch in pq.ParquetFile(file).iter_batches(batch_size, columns=["image", *FACTS]):
                yield pa.Table.from_batches([batch])
                bar.update(len(batch))


def _decoded(
    tables: Iterator[pa.Table], pool: ThreadPoolExecutor
) -> Iterator[tuple[pa.Table, list[np.ndarray | BadRow]]]:
    """Each table with its images; those of the next table are decoded while this one is scored."""
    pending: tuple[pa.Table, list[Future[np.ndarray | BadRow]]] | None = None
    for table in tables:
        following = table, [pool.submit(_decode, data) for data in table["image"].to_pylist()]
        if pending:
            yield pending[0], [image.result() for image in pending[1]]
        pending = following
    if pending:
        yield pending[0], [image.result() for image in pending[1]]


def _decode(data: bytes) -> np.ndarray | BadRow:
    try:
        return decode_rgb(data)
    except BadRow as fault:
        return fault


def _affect(table: pa.Table) -> np.ndarray:
    """True valence and arousal (N, 2), NaN where a row has none."""
    return np.stack([table[name].to_numpy().astype(np.float32) for name in AFFECT], axis=1)


def _join(scores: list[np.ndarray | None]) -> np.ndarray:
    return np.concatenate([each for each in scores if each is not None])
