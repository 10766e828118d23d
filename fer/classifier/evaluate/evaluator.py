"""Evaluation of a classifier on one split of a data set."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import pyarrow as pa
from pydantic import BaseModel

from fer.classifier.evaluate.mistakes import Mistake, WorstMistakes
from fer.classifier.evaluate.rows import AFFECT, Image, affect_values, decode_ahead, read_batches
from fer.classifier.predictor import Predictions, Predictor
from fer.data.manifest import ShardedDataset
from fer.errors import BadRow, UserError
from fer.evaluation.metrics import ClassificationMetrics, RegressionMetrics, classification_metrics, regression_metrics
from fer.labels import map_labels


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


@dataclass
class Evaluation:
    """The results of one model on one split."""

    coverage: Coverage
    expression: ClassificationMetrics | None
    affect: dict[str, RegressionMetrics]
    """`valence` and `arousal`; empty if the model or the data has none."""
    predictions: pa.Table
    """One row per evaluated row: path, true values, predicted values and probabilities."""
    mistakes: list[Mistake]
    """The most severe first."""


def default_split(dataset: ShardedDataset) -> str:
    """`test` if the data set has it, else `val`."""
    return "test" if "test" in dataset.manifest.splits else "val"


def evaluate(
    predictor: Predictor,
    dataset: ShardedDataset,
    split: str,
    pattern: str | None = None,
    seed: int = 0,
    max_bad_fraction: float = 0.01,
) -> Evaluation:
    """Evaluate on every row of ``split`` whose path matches the glob ``pattern``; ``seed`` is the bootstrap's.

    Labels are mapped to the model's; rows without a counterpart are left out and counted. At most two batches of images
    are in memory. Raises UserError if no row can be evaluated, or too many images are unreadable.
    """
    mapping = map_labels(dataset.manifest.space, predictor.space) if predictor.has_expression else {}
    coverage = Coverage(split=split, split_rows=dataset.split(split).rows, filter=pattern, mapping=mapping)
    evaluator = Evaluator(predictor, coverage)
    tables = (evaluator.select(table) for table in read_batches(dataset, split, predictor.batch_size))
    for table, images in decode_ahead(tables):
        evaluator.update(table, images)
    evaluator.check_coverage(max_bad_fraction)
    return evaluator.compute(seed)


class Evaluator:
    """Predicts batch by batch, and keeps what the metrics need: every column but the images."""

    def __init__(self, predictor: Predictor, coverage: Coverage) -> None:
        self.predictor, self.coverage = predictor, coverage
        self.tables: list[pa.Table] = []
        self.predictions: list[Predictions] = []
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
        return table.filter(pa.array(selected))

    def update(self, table: pa.Table, images: list[Image]) -> None:
        """Predict for a batch of selected rows."""
        paths = table["path"].to_pylist()
        self.coverage.unreadable += [
            (path, str(image)) for path, image in zip(paths, images, strict=True) if isinstance(image, BadRow)
        ]
        table = table.filter(pa.array([not isinstance(image, BadRow) for image in images], pa.bool_()))
        predictions = self.predictor.predict([image for image in images if not isinstance(image, BadRow)])
        self.mistakes.add(table, predictions)
        self.tables.append(table.drop_columns("image"))
        self.predictions.append(predictions)
        self.coverage.rows += len(table)

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

    def compute(self, seed: int) -> Evaluation:
        """The metrics over all batches."""
        table = pa.concat_tables(self.tables)
        groups = table["group"].to_pylist()
        expression, affect = None, {}
        columns = {name: table[name] for name in ("path", "group", "label", "true")}
        if self.predictor.has_expression:
            probabilities = _concatenate([batch.probabilities for batch in self.predictions])
            expression = self._expression_metrics(table["true"].to_pylist(), probabilities, groups, seed)
            best = probabilities.argmax(axis=1)
            columns["predicted"] = pa.array([self.predictor.labels[index] for index in best])
            columns["confidence"] = pa.array(probabilities.max(axis=1))
            columns |= {f"p_{label}": pa.array(probabilities[:, k]) for k, label in enumerate(self.predictor.labels)}
        if self.predictor.has_affect:
            true = affect_values(table)
            estimated = _concatenate([batch.valence_arousal for batch in self.predictions])
            for k, name in enumerate(AFFECT):
                columns |= {name: table[name], f"estimated_{name}": pa.array(estimated[:, k])}
                if not np.isnan(true[:, k]).all():
                    affect[name] = regression_metrics(true[:, k], estimated[:, k], groups, seed)
        return Evaluation(self.coverage, expression, affect, pa.table(columns), self.mistakes.ranked())

    def _expression_metrics(
        self, true: list[str | None], probabilities: np.ndarray, groups: list[str | None], seed: int
    ) -> ClassificationMetrics | None:
        labels = self.predictor.labels
        known = [row for row, label in enumerate(true) if label is not None]
        if not known:
            return None
        indices = np.array([labels.index(true[row]) for row in known])
        metrics = classification_metrics(labels, indices, probabilities[known], [groups[row] for row in known], seed)
        missing = [each for each in metrics.classes if not each.support]
        self.coverage.missing_classes = [each.label for each in missing]
        self.coverage.predicted_missing = sum(each.predicted for each in missing)
        return metrics


def _concatenate(batches: list[np.ndarray | None]) -> np.ndarray:
    return np.concatenate([batch for batch in batches if batch is not None])
