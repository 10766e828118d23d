"""`fer prepare`: from a data set in its published form to validated, shuffled Parquet shards with a manifest."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from fer.data.listing import Listing
from fer.data.manifest import MANIFEST, REJECTED_ROWS, Manifest, ShardedDataset
from fer.data.mapping import map_rows
from fer.data.options import DataOptions, PrepareOptions
from fer.data.record import SplitRecord
from fer.data.rejected import RejectedRows
from fer.data.schema import SPLITS, Source
from fer.data.shard_records import ShardTotals
from fer.data.shard_tasks import (
    ShardPlan,
    load_image,
    read_records,
    write_in_process,
    write_on_ray,
)
from fer.data.shards import UNFINISHED, cache_path, is_prepared, is_sharded, remove_shards
from fer.data.sources import open_source
from fer.data.stream.prefetch import prefetch
from fer.data.vqa.prepare import prepare_questions
from fer.errors import BadRow, UserError
from fer.faces.detectors import choose_detector
from fer.faces.options import Preprocessing
from fer.labels import LabelSpace, get_space
from fer.storage import get_filesystem, open_path, write_atomically

MB = 2**20
PLAN = "plan.json"
SAMPLE = 32
"""Images that are read first, to plan shards of the size that was asked for."""
IN_PROCESS_SHARDS = 4
"""So few shards are written before a local Ray has started."""

Connect = Callable[[], None]
"""Connects to Ray; called when there is work for several processes."""


def prepare(options: PrepareOptions, connect: Connect | None = None) -> ShardedDataset:
    """Write the shards of a data set to ``options.out``, unless they exist already.

    With ``connect``, large data is prepared on Ray; without, in this process. An interrupted run is resumed. Raises
    UserError for data that can't be read, too many bad rows, no face in any image, or an ``out`` with other content.
    """
    if options.format == "vqa":
        return prepare_questions(options)
    source = open_source(options)
    options = choose_detector(options)
    return _prepare(source, options, _input_hash(source, options), connect)


def open_dataset(options: DataOptions, cache: str) -> ShardedDataset:
    """Open shards; any other data set is prepared once, in a sub-folder of ``cache``.

    Raises UserError as `prepare` does, and for a ``label_space`` other than that of the shards.
    """
    if options.format == "shards" or is_sharded(options.data):
        dataset = ShardedDataset(options.data)
        if dataset.manifest.kind != "faces":
            raise UserError(f"{options.data} contains {dataset.manifest.kind}: train on them with `fer sft`")
        if options.label_space not in (None, dataset.manifest.label_space):
            raise UserError(
                f"the shards in {options.data} are in label space {dataset.manifest.label_space}: run "
                f"`fer prepare --label-space {options.label_space}` on the original data set"
            )
        return dataset
    source = open_source(options)
    shared = options.model_dump(include=set(DataOptions.model_fields))
    input_hash = _input_hash(source, PrepareOptions(**shared, out=cache))
    out = cache_path(cache, options.data, input_hash)
    return _prepare(source, PrepareOptions(**shared, out=out), input_hash, None)


def open_unlabelled(data: str, cache: str) -> ShardedDataset:
    """Open shards, or any images, of which only the training split's pixels will be read. Raises UserError."""
    shards = is_sharded(data)
    return open_dataset(DataOptions(data=data, format="shards" if shards else "unlabelled", val_split=0), cache)


def _prepare(source: Source, options: PrepareOptions, input_hash: str, connect: Connect | None) -> ShardedDataset:
    if is_prepared(options.out, input_hash, options.overwrite):
        print(f"{options.out} is up to date", flush=True)
        return ShardedDataset(options.out)
    space = get_space(options.label_space) if options.label_space else source.space
    rejected = RejectedRows(options)
    with tempfile.TemporaryDirectory(prefix="fer-prepare-") as scratch:
        listing = Listing(Path(scratch))
        listing.fill(map_rows(source.rows(), source.space, space), rejected, source, options.split_seed)
        rejected.check_bad_fraction()
        rows = listing.divide(val_split=options.val_split, test_split=options.test_split, seed=options.split_seed)
        plan = _plan(listing, rows, input_hash, options)
        totals = _write(plan, listing, sum(rows.values()), rejected, options, connect)
    rejected.check_bad_fraction()
    fs, root = get_filesystem(options.out)
    if not totals.splits():
        remove_shards(fs, root)
        advice = "leave it out if the images show one face each"
        raise UserError(f"--detector {options.detector} found no face in {options.data}: {advice}")
    rejected.write(fs, f"{root}/{REJECTED_ROWS}")
    manifest = _manifest(source, space, totals, rejected, input_hash, options)
    write_atomically(open_path(f"{plan.root}/{MANIFEST}"), manifest.model_dump_json(indent=2))
    fs.rm(f"{root}/{UNFINISHED}", recursive=True)
    rejected.remove_stale()
    return ShardedDataset(options.out)


def _plan(listing: Listing, rows: dict[str, int], input_hash: str, options: PrepareOptions) -> ShardPlan:
    """The shards to write: those of an earlier run if one with the same inputs was interrupted."""
    fs, root = get_filesystem(options.out)
    location = options.out if "://" in options.out else root  # absolute: workers have another working directory
    stored = {}
    with suppress(FileNotFoundError, ValueError):  # one that is not complete counts as absent
        stored = json.loads(fs.cat_file(f"{root}/{UNFINISHED}/{PLAN}"))
    if stored.get("input_hash") == input_hash and not is_sharded(options.out):
        return ShardPlan(location, stored["counts"], _preprocessing(options), options.detector_model)
    remove_shards(fs, root)
    counts = dict.fromkeys(rows, 1)
    plan = ShardPlan(location, counts, _preprocessing(options), options.detector_model)
    cutter = plan.open_cutter()
    loaded = [image for _, image in prefetch(lambda row: load_image(row, cutter), listing.sample(SAMPLE))]
    sizes = [len(image) for image in loaded if not isinstance(image, BadRow)]
    mean = sum(sizes) / max(1, len(sizes))
    counts.update({split: max(1, round(count * mean / (options.shard_mb * MB))) for split, count in rows.items()})
    fs.makedirs(f"{root}/{UNFINISHED}", exist_ok=True)
    stored = {"input_hash": input_hash, "counts": counts}
    write_atomically(open_path(f"{location}/{UNFINISHED}/{PLAN}"), json.dumps(stored))
    return plan


def _write(
    plan: ShardPlan,
    listing: Listing,
    rows: int,
    rejected: RejectedRows,
    options: PrepareOptions,
    connect: Connect | None,
) -> ShardTotals:
    """Write the shards that are not finished; the sum of all."""
    totals, done = ShardTotals(rejected), {}
    for record in read_records(plan):
        totals.add(record)
        done[record.split, record.index] = record.rows
    if done:
        print(f"{options.out}: {len(done)} of {len(plan.shards)} shards are finished", flush=True)
    todo = [shard for shard in plan.shards if shard not in done]
    records = write_in_process(plan, todo, listing)
    small = len(todo) <= IN_PROCESS_SHARDS and options.workers == 0 and not os.environ.get("RAY_ADDRESS")
    if todo and connect and not small:
        connect()
        records = write_on_ray(plan, todo, listing, options.workers)
    with tqdm(total=rows, initial=sum(done.values()), desc="prepare", unit=" images", disable=None) as progress:
        for record in records:
            totals.add(record)
            progress.update(record.rows)
    return totals


def _preprocessing(options: PrepareOptions) -> Preprocessing | None:
    """How faces are cut out, of options with a chosen detector. Raises UserError if it can't align."""
    if options.detector not in ("haar", "yunet"):
        return None
    if options.align and options.detector == "haar":
        raise UserError("--align needs YuNet, which finds the eyes: `fer fetch yunet` downloads it")
    file = Path(options.detector_model).name if options.detector_model else None
    return Preprocessing(detector=options.detector, detector_file=file, margin=options.margin, align=options.align)


def _manifest(
    source: Source,
    space: LabelSpace,
    totals: ShardTotals,
    rejected: RejectedRows,
    input_hash: str,
    options: PrepareOptions,
) -> Manifest:
    splits = totals.splits()
    if "val" not in splits and "test" in splits and not options.val_split:
        print("warning: no validation split and --val-split 0: the test split is used for validation too", flush=True)
        splits = splits | {"val": splits["test"]}
    return Manifest(
        source=options.data,
        format=source.format,
        label_space=space.name,
        labels=list(space.labels),
        splits={name: splits[name] for name in SPLITS if name in splits},
        rejected=rejected.counts,
        preprocessing=_preprocessing(options),
        content_hash=totals.content_hash,
        input_hash=input_hash,
        split_options=SplitRecord(**options.model_dump(include=set(SplitRecord.model_fields))),
    )


def _input_hash(source: Source, options: PrepareOptions) -> str:
    left_out = {"data", "format", "out", "overwrite", "image_root", "embed_images", "workers", "max_bad_fraction"}
    faces = {"detector", "detector_model", "margin", "align"}
    settings = options.model_dump(exclude=left_out | faces)
    preprocessing = _preprocessing(options)
    if preprocessing:
        settings["preprocessing"] = preprocessing.model_dump()
    inputs = json.dumps([source.format, source.fingerprint(), settings], sort_keys=True)
    return hashlib.sha256(inputs.encode()).hexdigest()
