"""Reading the rows of a split: shards are streamed, and images are decoded one batch ahead of the model."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from fer.cpus import cpu_count
from fer.data.images import decode_rgb
from fer.data.manifest import ShardedDataset
from fer.data.shards import open_shard
from fer.errors import BadRow

COLUMNS = ["path", "group", "label", "valence", "arousal"]
AFFECT = ("valence", "arousal")

Image = np.ndarray | BadRow
"""RGB (H, W, 3) uint8, or why it can't be decoded."""


def read_batches(dataset: ShardedDataset, split: str, batch_size: int) -> Iterator[pa.Table]:
    """Batches of `COLUMNS` and the encoded ``image``, in stored order, with a progress bar on a terminal."""
    with tqdm(total=dataset.split(split).rows, unit="row", disable=None) as progress:
        for shard in dataset.split(split).shards:
            with open_shard(dataset.path(shard)) as file:
                for batch in file.iter_batches(batch_size, columns=["image", *COLUMNS]):
                    yield pa.Table.from_batches([batch])
                    progress.update(len(batch))


def decode_ahead(tables: Iterator[pa.Table]) -> Iterator[tuple[pa.Table, list[Image]]]:
    """Each table with its decoded images; the next table's are decoded while the caller works on this one's."""
    pending: tuple[pa.Table, list[Future[Image]]] | None = None
    with ThreadPoolExecutor(min(8, cpu_count())) as pool:
        for table in tables:
            following = table, [pool.submit(_decode, data) for data in table["image"].to_pylist()]
            if pending:
                yield pending[0], [image.result() for image in pending[1]]
            pending = following
        if pending:
            yield pending[0], [image.result() for image in pending[1]]


def affect_values(table: pa.Table) -> np.ndarray:
    """True valence and arousal (N, 2) float32, NaN if missing."""
    return np.stack([table[name].to_numpy().astype(np.float32) for name in AFFECT], axis=1)


def _decode(data: bytes) -> Image:
    try:
        return decode_rgb(data)
    except BadRow as error:
        return error
