"""Writing the shards of a listing: one task per shard, in this process or on a Ray cluster.

A task reads and checks the images of its rows, cuts faces out if the plan says so, and writes one file. A record of it
follows; the shards that have one when an interrupted job starts again are kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from fer.data.images import decode_untrusted, encode_like
from fer.data.listing import Listing, unpickle_rows
from fer.data.schema import FACE_SCHEMA, FaceRow
from fer.data.shard_records import ShardRecord
from fer.data.shards import UNFINISHED, ShardWriter
from fer.data.stream.prefetch import prefetch, read_verified
from fer.errors import BadRow
from fer.faces.find import FaceCutter, NoFace
from fer.faces.options import Preprocessing
from fer.storage import get_filesystem, open_path, write_atomically

RECORDS_AT_A_TIME = 64
COLUMNS = [name for name in FACE_SCHEMA.names if name != "image"]


@dataclass(frozen=True)
class ShardPlan:
    """Where the shards are written, how many there are, and how their faces are cut out."""

    root: str
    counts: dict[str, int]
    """Number of shards of each split."""
    preprocessing: Preprocessing | None
    detector_model: str | None

    @property
    def shards(self) -> list[tuple[str, int]]:
        return [(split, index) for split, count in self.counts.items() for index in range(count)]

    def record_path(self, split: str, index: int) -> str:
        return f"{self.root}/{UNFINISHED}/{split}-{index:05d}.json"

    def open_cutter(self) -> FaceCutter | None:
        return FaceCutter(self.preprocessing, self.detector_model) if self.preprocessing else None


def write_shard(
    plan: ShardPlan, split: str, index: int, rows: Sequence[FaceRow], cutter: FaceCutter | None
) -> ShardRecord:
    """Read, check and write the rows of a shard, then its record."""
    fs, root = get_filesystem(plan.root)
    rejected, total = [], 0
    writer = ShardWriter(fs, root, split, FACE_SCHEMA, first=index)
    for row, image in prefetch(partial(load_image, cutter=cutter), rows):
        if isinstance(image, BadRow):
            rejected.append((row.path, str(image), not isinstance(image, NoFace)))
            continue
        writer.add({"image": image} | {name: getattr(row, name) for name in COLUMNS}, str(row.label), len(image))
        identity = f"{split}\0{row.path}\0{row.label}\0".encode(errors="surrogateescape") + image
        total += int.from_bytes(hashlib.sha256(identity).digest())
    written = writer.close()
    record = ShardRecord(split=split, index=index, written=written, rejected=rejected, content=f"{total:x}")
    write_atomically(open_path(plan.record_path(split, index)), record.model_dump_json())
    return record


def load_image(row: FaceRow, cutter: FaceCutter | None) -> bytes | BadRow:
    """The encoded image of a row, or of its face; or why it can't be used."""
    pixels: list[np.ndarray] = []
    encoded = read_verified(row.read, lambda data: pixels.append(decode_untrusted(data)))
    if cutter is None or isinstance(encoded, BadRow):
        return encoded
    try:
        face = cutter.cut(pixels[0])
    except BadRow as error:
        return error
    return encoded if face is pixels[0] else encode_like(face, encoded)


def read_records(plan: ShardPlan) -> Iterator[ShardRecord]:
    """The records of the shards that an interrupted job finished, from an object store many at a time.

    One that is not complete counts as absent: its shard is written again.
    """
    fs, folder = get_filesystem(f"{plan.root}/{UNFINISHED}")
    held = {path.rpartition("/")[2] for path in fs.ls(folder, detail=False)} if fs.isdir(folder) else set()
    paths = [get_filesystem(plan.record_path(*shard))[1] for shard in plan.shards]
    paths = [path for path in paths if path.rpartition("/")[2] in held]
    for start in range(0, len(paths), RECORDS_AT_A_TIME):
        for content in fs.cat(paths[start : start + RECORDS_AT_A_TIME]).values():
            with suppress(ValidationError):
                yield ShardRecord.model_validate_json(content)


def write_in_process(plan: ShardPlan, todo: Sequence[tuple[str, int]], listing: Listing) -> Iterator[ShardRecord]:
    """Write the shards in turn."""
    cutter = plan.open_cutter()
    for split, index in todo:
        yield write_shard(plan, split, index, listing.rows(split, index, plan.counts[split]), cutter)


def write_on_ray(
    plan: ShardPlan, todo: Sequence[tuple[str, int]], listing: Listing, workers: int
) -> Iterator[ShardRecord]:
    """Write the shards with Ray Data, on any number of nodes. ``workers`` 0: one per CPU of the cluster."""
    import ray.data
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from fer.data.stream.reader import Throttle

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    reader_class: Any = ray.remote(ListingReader)
    reader = reader_class.options(num_cpus=0, scheduling_strategy=here).remote(listing.folder)
    data = ray.data.from_items(
        [{"split": split, "index": index} for split, index in todo], override_num_blocks=len(todo)
    )
    data.context.enable_progress_bars = False
    data.context.custom_execution_callback_classes = [Throttle]
    records = data.map_batches(
        _write_in_task,  # type: ignore[arg-type]  # takes `fn_args` too
        fn_args=(plan, listing.shared, reader),
        batch_size=1,
        num_cpus=1,
        compute=ray.data.TaskPoolStrategy(size=workers or None),
    )
    for row in records.iter_rows():
        yield ShardRecord.model_validate_json(row["record"])


class ListingReader:
    """Reads the rows of shards for workers on other machines: an actor beside the listing's file."""

    def __init__(self, folder: Path) -> None:
        self.listing = Listing(folder)

    def rows(self, split: str, index: int, count: int) -> list[bytes]:
        return self.listing.pickled_rows(split, index, count)


def _write_in_task(
    batch: dict[str, np.ndarray], plan: ShardPlan, shared: list[Any], reader: Any
) -> dict[str, np.ndarray]:
    """Write the shard that a batch of one row names."""
    import ray

    split, index = str(batch["split"][0]), int(batch["index"][0])
    rows = unpickle_rows(ray.get(reader.rows.remote(split, index, plan.counts[split])), shared)
    record = write_shard(plan, split, index, rows, plan.open_cutter())
    return {"record": np.array([record.model_dump_json()], dtype=object)}
