"""Evaluation of a classifier on one split of a data set: rows are streamed, and only sums are kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel

from fer.classifier.evaluate.attributes import Attributes
from fer.classifier.evaluate.labelled import LabelledRows, Review
from fer.classifier.evaluate.mistakes import Mistake, WorstMistakes
from fer.classifier.evaluate.overlap import Overlap, OverlapCounter
from fer.classifier.evaluate.rows import AFFECT, Image, affect_values, decode_ahead, read_batches
from fer.classifier.predictor import Predictions, Predictor
from fer.data.manifest import ShardedDataset
from fer.errors import BadRow, UserError
from fer.evaluation.classification import ClassificationMetrics
from fer.evaluation.regression import RegressionMetrics, RegressionSums
from fer.evaluation.subgroups import SubgroupMetrics
from fer.labels import map_labels

MAX_POINTS = 5000
"""Rows in the plot of valence and arousal: the first ones, since shards are shuffled."""


class Coverage(BaseModel):
    """Which rows were evaluated, and why the others were not."""

    split: str
    split_rows: int
    filter: str | None
    filtered: int = 0
    """Rows whose path the filter does not match."""
    rows: int = 0
    """Rows that were evaluated."""
    mapping: dict[str, str | None]
    """Each label of the data to the model's label; empty for a model without an expression head."""
    unknown_labels: Counter[str] = Counter()
    """Rows per label that the model does not have; they are not in the expression metrics."""
    unreadable: list[tuple[str, str]] = []
    """Path and error of each row whose image can't be decoded."""
    missing_classes: list[str] = []
    """Labels of the model without an evaluated row."""
    predicted_missing: int = 0
    """Predictions of such labels; each is a mistake."""
    training: Overlap | None = None
    """Evaluated rows that the training used; None if the model does not record its training data."""


@dataclass
class Evaluation:
    """The results of one model on one split."""

    coverage: Coverage
    device: str
    """Where the model ran."""
    expression: ClassificationMetrics | None
    affect: dict[str, RegressionMetrics]
    """`valence` and `arousal`; empty if the model or the data has none."""
    affect_points: np.ndarray
    """True and estimated values (N, 2, 2) of the first `MAX_POINTS` rows, for the plot."""
    mistakes: list[Mistake]
    """The most severe first."""
    subgroups: list[SubgroupMetrics]
    """By each attribute of `--groups`."""
    review: Review | None
    """None without `--min-confidence`."""


def default_split(dataset: ShardedDataset) -> str:
    """`test` if the data set has it, else `val`."""
    return "test" if "test" in dataset.manifest.splits else "val"


def evaluate(
    predictor: Predictor,
    dataset: ShardedDataset,
    split: str,
    pattern: str | None = None,
    *,
    sink: Callable[[pa.Table], None] = lambda _: None,
    **options: Any,
) -> Evaluation:
    """Evaluate as `evaluate_batches` does; ``sink`` gets the predictions of each batch."""
    batches = evaluate_batches(predictor, dataset, split, pattern, **options)
    while True:
        try:
            sink(next(batches))
        except StopIteration as end:
            return end.value


def evaluate_batches(
    predictor: Predictor,
    dataset: ShardedDataset,
    split: str,
    pattern: str | None = None,
    seed: int = 0,
    max_bad_fraction: float = 0.01,
    allow_training_rows: bool = False,
    attributes: Attributes | None = None,
    min_confidence: float = 0.0,
) -> Generator[pa.Table, None, Evaluation]:
    """Evaluate on every row of ``split`` whose path matches the glob ``pattern``; ``seed`` is the bootstrap's.

    Yields the predictions batch by batch: path, group, label, true values, predicted values and probabilities of each
    evaluated row. Returns the metrics. Labels are mapped to the model's; rows without a counterpart are left out and
    counted. ``attributes`` are those that metrics are computed by. At most two batches of images are in memory, and
    nothing is kept per row. Raises UserError if no row can be evaluated, too many images are unreadable, the faces were
    not cut out as those of the model's training data, or the model was trained on a row and ``allow_training_rows`` is
    not set.
    """
    trained, given = predictor.specs[0].preprocessing, dataset.manifest.preprocessing
    if trained and given != trained:
        raise UserError(
            f"the model was trained on faces that were cut out by {trained}, and those in {dataset.root} "
            f"{f'by {given}' if given else 'were not'}: prepare photographs as the training data, with `fer prepare "
            "--detector`"
        )
    if (attributes or min_confidence) and not predictor.has_expression:
        raise UserError("--groups and --min-confidence are about labels, and the model estimates valence and arousal")
    mapping = map_labels(dataset.manifest.space, predictor.space) if predictor.has_expression else {}
    coverage = Coverage(split=split, split_rows=dataset.split(split).rows, filter=pattern, mapping=mapping)
    overlap = OverlapCounter(predictor.specs[0].data, dataset, split, allow_training_rows)
    evaluator = Evaluator(predictor, coverage, overlap, seed, attributes, min_confidence)
    tables = (evaluator.select(table) for table in read_batches(dataset, split, predictor.batch_size))
    for table, images in decode_ahead(tables):
        yield evaluator.update(table, images)
    evaluator.check_coverage(max_bad_fraction)
    return evaluator.compute()


class Evaluator:
    """Predicts batch by batch, and keeps the sums that the metrics need."""

    def __init__(
        self,
        predictor: Predictor,
        coverage: Coverage,
        overlap: OverlapCounter,
        seed: int,
        attributes: Attributes | None,
        min_confidence: float,
    ) -> None:
        self.predictor, self.coverage, self.overlap = predictor, coverage, overlap
        labelled = LabelledRows(predictor.labels, seed, attributes, min_confidence)
        self.labelled = labelled if predictor.has_expression else None
        self.affect = {name: RegressionSums(seed) for name in AFFECT} if predictor.has_affect else {}
        self.points = np.empty((0, 2, 2), np.float32)
        self.mistakes = WorstMistakes(predictor.labels)

    def select(self, table: pa.Table) -> pa.Table:
        """The rows to evaluate, with the model's label in the column ``true``; counts the others."""
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
        selected = np.array([label is not None for label in true], bool)
        if self.predictor.has_affect:
            selected |= ~np.isnan(affect_values(table)).all(axis=1)
        table = table.filter(pa.array(selected))
        self.overlap.add(table["path"].to_pylist(), table["image"].to_pylist())
        return table

    def update(self, table: pa.Table, images: list[Image]) -> pa.Table:
        """Predict for a batch of selected rows; returns their values and the model's."""
        self.coverage.unreadable += [
            (path, str(image))
            for path, image in zip(table["path"].to_pylist(), images, strict=True)
            if isinstance(image, BadRow)
        ]
        table = table.filter(pa.array([not isinstance(image, BadRow) for image in images], pa.bool_()))
        predictions = self.predictor.predict([image for image in images if not isinstance(image, BadRow)])
        self.mistakes.add(table, predictions)
        self.coverage.rows += len(table)
        paths, groups = table["path"].to_pylist(), table["group"].to_pylist()
        if self.labelled is not None and predictions.probabilities is not None:
            true = table["true"].to_pylist()
            known = [row for row, label in enumerate(true) if label is not None]
            indices = np.array([self.predictor.labels.index(true[row]) for row in known], int)
            self.labelled.update(
                [paths[row] for row in known],
                indices,
                predictions.probabilities[known],
                [groups[row] for row in known],
            )
        if predictions.valence_arousal is not None:
            values = affect_values(table)
            for column, sums in enumerate(self.affect.values()):
                sums.update(values[:, column], predictions.valence_arousal[:, column], groups)
            points = np.stack([values, predictions.valence_arousal], axis=1)
            self.points = np.concatenate([self.points, points[: MAX_POINTS - len(self.points)]])
        return self._prediction_rows(table, predictions)

    def check_coverage(self, max_bad_fraction: float) -> None:
        """Raise UserError if too many images are unreadable, or no row was evaluated."""
        coverage, predictor = self.coverage, self.predictor
        total = coverage.rows + len(coverage.unreadable)
        if coverage.unreadable and len(coverage.unreadable) > max_bad_fraction * total:
            path, reason = coverage.unreadable[0]
            raise UserError(
                f"{len(coverage.unreadable)} images can't be read ({path}: {reason}); create the shards again with "
                "`fer prepare`, or raise --max-bad-fraction"
            )
        if coverage.rows:
            return
        if coverage.filtered == coverage.split_rows:
            raise UserError(f"--filter: no path of the split {coverage.split!r} matches {coverage.filter!r}")
        if predictor.has_expression:
            known, given = ", ".join(predictor.labels), ", ".join(coverage.mapping)
            raise UserError(f"the model has none of the data's labels ({given}); it has {known}")
        raise UserError("the model estimates valence and arousal only, and the data has no such values")

    def compute(self) -> Evaluation:
        """The metrics over all batches."""
        self.coverage.training = self.overlap.result()
        expression = self.labelled.metrics() if self.labelled is not None else None
        if expression is not None:
            missing = [each for each in expression.classes if not each.support]
            self.coverage.missing_classes = [each.label for each in missing]
            self.coverage.predicted_missing = sum(each.predicted for each in missing)
        affect = {name: sums.compute() for name, sums in self.affect.items() if sums.rows}
        device = str(self.predictor.device)
        return Evaluation(
            coverage=self.coverage,
            device=device,
            expression=expression,
            affect=affect,
            affect_points=self.points,
            mistakes=self.mistakes.ranked(),
            subgroups=self.labelled.by_subgroup() if self.labelled is not None else [],
            review=self.labelled.review if self.labelled is not None else None,
        )

    def _prediction_rows(self, table: pa.Table, predictions: Predictions) -> pa.Table:
        columns = {name: table[name] for name in ("path", "group", "label", "true")}
        if (probabilities := predictions.probabilities) is not None:
            best = probabilities.argmax(axis=1)
            columns["predicted"] = pa.array([self.predictor.labels[index] for index in best], pa.string())
            columns["confidence"] = pa.array(probabilities.max(axis=1))
            columns |= {f"p_{label}": pa.array(probabilities[:, k]) for k, label in enumerate(self.predictor.labels)}
        if (estimated := predictions.valence_arousal) is not None:
            for column, name in enumerate(AFFECT):
                columns |= {name: table[name], f"estimated_{name}": pa.array(estimated[:, column])}
        return pa.table(columns)
