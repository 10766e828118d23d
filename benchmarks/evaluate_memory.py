"""Memory and time of evaluating N rows and ten times as many: nothing may be kept per row.

    python -m benchmarks.evaluate_memory

The predictions are random, so that no time goes into a model, and the images have eight pixels a side. All else is that
of `fer evaluate`: shards, decoding, the search for training rows, metrics, intervals, predictions file and report. Each
size runs in a process of its own; memory is the peak of its resident set.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

from pydantic import Field

from fer.options import Options, parse

SHARD_ROWS = 10_000


class EvaluateMemoryBenchmark(Options):
    """Compare the memory of evaluating N rows with that of ten times as many."""

    rows: int = Field(100_000, ge=SHARD_ROWS, multiple_of=SHARD_ROWS, description="Rows of the smaller data set")
    groups: int = Field(0, ge=0, description="Videos that the rows belong to, which are resampled whole; 0: none")
    head: str = Field("classification", description="Heads of the model: classification, valence-arousal or both")


def main(config: EvaluateMemoryBenchmark) -> None:
    peaks = []
    with tempfile.TemporaryDirectory() as scratch:
        for rows in (config.rows, 10 * config.rows):
            write_shards(Path(scratch) / str(rows), rows, config.groups)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                seconds, peak, size = pool.apply(evaluate_rows, (Path(scratch) / str(rows), config.head))
            peaks.append(peak)
            print(f"{rows:>10,} rows: {seconds:6.1f} s, {peak / 2**20:6.0f} MiB; predictions.csv {size / 1e6:.0f} MB")
    print(f"memory with ten times the rows: {peaks[1] / peaks[0] - 1:+.1%}")


def write_shards(root: Path, rows: int, groups: int) -> None:
    """Shards of one file, which the manifest names as often as the rows need."""
    import numpy as np

    from fer.data.filesystem import get_filesystem
    from fer.data.images import encode_png
    from fer.data.manifest import MANIFEST, Manifest
    from fer.data.schema import FACE_SCHEMA
    from fer.data.shards import ShardWriter
    from fer.labels import get_space

    random, space = np.random.default_rng(0), get_space("affectnet")
    writer = ShardWriter(get_filesystem(str(root))[0], str(root), "test", FACE_SCHEMA, 2**30)
    for row in range(SHARD_ROWS):
        label = space.labels[int(random.integers(len(space.labels)))]
        values = {
            "image": encode_png(random.integers(0, 256, (8, 8), np.uint8)),
            "path": f"images/{row % 100}/{row:07}.png",
            "label": label,
            "group": f"video {random.integers(groups)}" if groups else None,
            "valence": float(random.uniform(-1, 1)),
            "arousal": float(random.uniform(-1, 1)),
        }
        writer.add(values, label, 100)
    split = writer.close()
    times = rows // SHARD_ROWS
    counts = {label: count * times for label, count in split.counts.items()}
    split = split.model_copy(update={"shards": split.shards * times, "counts": counts})
    manifest = Manifest(
        source="random", format="folder", label_space=space.name, labels=list(space.labels), splits={"test": split},
        content_hash="0" * 64, input_hash="",
    )  # fmt: skip
    (root / MANIFEST).write_text(manifest.model_dump_json())


def evaluate_rows(root: Path, head: str) -> tuple[float, int, int]:
    """Seconds, peak memory in bytes, and the size of the predictions file."""
    from fer.classifier.evaluate.evaluator import evaluate
    from fer.classifier.evaluate.results import EvaluationSetup, PredictionsFile, write_results
    from fer.data.manifest import ShardedDataset

    predictor, dataset, out = RandomPredictor(head), ShardedDataset(str(root)), root / "evaluation"
    started = time.perf_counter()
    with PredictionsFile(root / "predictions.csv") as predictions:
        found = evaluate(predictor, dataset, "test", sink=predictions.write)  # type: ignore[arg-type]
    setup = EvaluationSetup("random", root, predictor.specs[0], str(root), dataset)
    write_results(found, setup, predictions.path, out)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return seconds, peak, (out / "predictions.csv").stat().st_size


class RandomPredictor:
    """Random predictions in place of a model's."""

    def __init__(self, head: str) -> None:
        import numpy as np

        from fer.classifier.model import new_spec
        from fer.classifier.options import ModelOptions
        from fer.data.record import DataRecord
        from fer.data.row_sample import SAMPLE_ROWS, RowSample
        from fer.labels import get_space

        self.space = get_space("affectnet")
        self.labels, self.batch_size, self.device = self.space.labels, 256, "none"
        self.random = np.random.default_rng(0)
        rows = RowSample(self.random.integers(0, 2**64, SAMPLE_ROWS, np.uint64).tolist()).encode()
        record = DataRecord(content_hash="1" * 64, splits=None, train_rows=rows, val_rows=rows)
        self.specs = [new_spec(ModelOptions(head=head), self.space, record)]  # type: ignore[arg-type]
        self.has_expression, self.has_affect = self.specs[0].has_expression, self.specs[0].has_affect

    def predict(self, images):  # type: ignore[no-untyped-def]
        from fer.classifier.predictor import Predictions

        scores = self.random.exponential(size=(len(images), len(self.labels))).astype("float32") ** 2
        probabilities = scores / scores.sum(axis=1, keepdims=True) if self.has_expression else None
        affect = self.random.uniform(-1, 1, (len(images), 2)).astype("float32") if self.has_affect else None
        return Predictions(probabilities, affect)


if __name__ == "__main__":
    main(parse(EvaluateMemoryBenchmark, sys.argv[1:], "benchmark"))
