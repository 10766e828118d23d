"""Training in this process, without Ray and MLflow: for benchmarks that train many small models one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    from fer.classifier.options import TrainConfig
    from fer.classifier.train import ClassifierTrainer
    from fer.data.manifest import ShardedDataset


def make_trainer(
    config: TrainConfig, dataset: ShardedDataset, report: Callable[..., None], **others: Any
) -> ClassifierTrainer:
    """The trainer of `fer train`, which calls ``report(metrics, checkpoint=...)`` after each epoch."""
    from fer.classifier.model import new_spec
    from fer.classifier.train import ClassifierTrainer
    from fer.training.worker import Worker

    spec = new_spec(config, dataset.manifest.space)
    return ClassifierTrainer(config, spec, dataset, Worker.start(config, report), untracked(), **others)


@contextmanager
def in_process() -> Iterator[None]:
    """Inside, windows are read in this process in place of Ray's, in the same order, and nothing is printed."""
    from fer.classifier import data_loader

    original = data_loader.iter_tables
    data_loader.iter_tables = read_tables
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        data_loader.iter_tables = original


def read_tables(windows: Iterator[Any], load: Callable[[Any], pa.Table], *, batch_size: int) -> Iterator[pa.Table]:
    """What `fer.data.stream.reader.iter_tables` yields."""
    import pyarrow as pa

    rows = None
    for window in windows:
        table = load(window)
        rows = table if rows is None else pa.concat_tables([rows, table])
        while len(rows) >= batch_size:
            yield rows.slice(0, batch_size)
            rows = rows.slice(batch_size)
    if rows is not None and len(rows):
        yield rows


def untracked() -> Any:
    """A run that nothing is logged to."""
    from fer.tracking import Run

    class Untracked(Run):
        def _append(self, **entry: Any) -> None:
            pass

    return Untracked("", "")
