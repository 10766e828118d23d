"""The check of an exported classifier: its outputs and its accuracy beside the original's."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pyarrow as pa

from fer.classifier.evaluate.evaluator import Evaluation, evaluate
from fer.classifier.export.graph import input_batches
from fer.classifier.predictor import Predictor
from fer.classifier.reference import Reference, reference_of
from fer.classifier.runtimes.base import RawOutputs
from fer.data.manifest import ShardedDataset
from fer.errors import UserError

SPLIT = "val"
BATCHES = 16


def compare_outputs(original: Predictor, exported: Predictor, dataset: ShardedDataset | None) -> str:
    """The difference of the logits, or of valence and arousal in a model without them.

    On up to 512 validation images; on noise, if there is no data set.
    """
    one, other = original.models[0], exported.models[0]
    side, channels = one.spec.options.img_size, one.spec.options.in_chans
    noise = np.random.default_rng(0).integers(0, 256, (32, side, side, channels), np.uint8)
    batches = [noise] if dataset is None else islice(input_batches(dataset, SPLIT, one.spec), BATCHES)
    differences = np.abs(np.concatenate([_first_head(one(batch)) - _first_head(other(batch)) for batch in batches]))
    images = f"{len(differences)} {'validation images' if dataset else 'images of noise'}"
    return f"differ by at most {differences.max():.1e}, {differences.mean():.1e} on average ({images})"


def check_scores(
    original: Predictor, exported: Predictor, dataset: ShardedDataset, max_loss: float
) -> tuple[str, Reference | None]:
    """Evaluate both on the validation split: accuracy, or mean CCC for a model of valence and arousal only.

    Returns what to print, and the exported model's reference if it predicts expressions. Raises UserError for a loss of
    more than ``max_loss`` points.
    """
    rows: tuple[list[pa.Table], list[pa.Table]] = [], []
    before, after = (
        evaluate(predictor, dataset, SPLIT, allow_training_rows=True, sink=predicted.append)
        for predictor, predicted in zip((original, exported), rows, strict=True)
    )
    scores = f"{_score(after):.2%}, original {_score(before):.2%} ({before.coverage.rows:,} validation images"
    if before.coverage.training is not None and before.coverage.training.trained:
        scores += f", {before.coverage.training.trained:,} of which the model was trained on"
    if before.expression is not None:
        labels = [pa.concat_tables(predicted)["predicted"].to_pylist() for predicted in rows]
        equal = np.mean([one == other for one, other in zip(*labels, strict=True)])
        scores += f", {equal:.2%} equal labels"
    loss = 100 * (_score(before) - _score(after))
    if loss > max_loss:
        raise UserError(
            f"the exported model is {loss:.2f} points worse ({scores})): choose another --precision, or allow it with "
            "--max-loss"
        )
    return f"{scores})", _reference(exported, pa.concat_tables(rows[1]))


def _reference(predictor: Predictor, predictions: pa.Table) -> Reference | None:
    if not predictor.has_expression:
        return None
    return reference_of(np.stack([predictions[f"p_{label}"].to_numpy() for label in predictor.labels], axis=1))


def _first_head(outputs: RawOutputs) -> np.ndarray:
    return next(head for head in outputs if head is not None)


def _score(evaluation: Evaluation) -> float:
    if evaluation.expression is not None:
        return evaluation.expression.accuracy.value
    return float(np.mean([metrics.ccc.value for metrics in evaluation.affect.values()]))
