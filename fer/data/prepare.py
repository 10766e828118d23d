"""`fer prepare`: from a data set in its published form to validated, shuffled Parquet shards with a manifest."""

from __future__ import annotations

import hashlib
import json

import fsspec
import numpy as np
from tqdm import tqdm

from fer.data.manifest import MANIFEST, REJECTED_ROWS, Manifest, ShardedDataset, Split
from fer.data.mapping import map_rows
from fer.data.options import DataOptions, PrepareOptions
from fer.data.record import SplitRecord
from fer.data.rejected import RejectedRows
from fer.data.schema import FACE_SCHEMA, SPLITS, FaceRow, Source
from fer.data.shards import ShardWriter, cache_path, is_prepared, is_sharded, staged_output
from fer.data.sources import open_source
from fer.data.splits import assign_splits
from fer.data.stream.prefetch import prefetch, read_verified
from fer.data.vqa.prepare import prepare_questions
from fer.errors import BadRow, UserError
from fer.labels import LabelSpace, get_space

COLUMNS = [name for name in FACE_SCHEMA.names if name != "image"]


def prepare(options: PrepareOptions) -> ShardedDataset:
    """Write the shards of a data set to ``options.out``, unless they exist already.

    Raises UserError for data that can't be read, too many bad rows, or an ``out`` with other content.
    """
    if options.format == "vqa":
        return prepare_questions(options)
    source = open_source(options)
    return _prepare(source, options, _input_hash(source, options))


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
    return _prepare(source, PrepareOptions(**shared, out=out), input_hash)


def _prepare(source: Source, options: PrepareOptions, input_hash: str) -> ShardedDataset:
    if is_prepared(options.out, input_hash, options.overwrite):
        print(f"{options.out} is up to date", flush=True)
        return ShardedDataset(options.out)
    space = get_space(options.label_space) if options.label_space else source.space
    rows = sorted(map_rows(source.rows(), source.space, space), key=lambda row: row.path)
    rejected = RejectedRows(options)
    usable = rejected.filter(rows)
    rejected.check_bad_fraction()

    with staged_output(options.out) as (fs, root):
        splits, content_hash = _write(fs, root, usable, rejected, options)
        rejected.check_bad_fraction()
        rejected.write(fs, f"{root}/{REJECTED_ROWS}")
        manifest = _manifest(source, space, splits, rejected, content_hash, input_hash, options)
        with fs.open(f"{root}/{MANIFEST}", "w") as file:
            file.write(manifest.model_dump_json(indent=2))
    rejected.remove_stale()
    return ShardedDataset(options.out)


def _write(
    fs: fsspec.AbstractFileSystem, root: str, rows: list[FaceRow], rejected: RejectedRows, options: PrepareOptions
) -> tuple[dict[str, Split], str]:
    """Read, verify and write the rows of each split in shuffled order; return the splits and the content hash."""
    assigned = assign_splits(rows, val_split=options.val_split, test_split=options.test_split, seed=options.split_seed)
    written: dict[str, Split] = {}
    digests: list[tuple[str, bytes]] = []
    progress = tqdm(total=len(rows), desc="prepare", unit=" images", disable=None)
    with progress:
        for number, split in enumerate(SPLITS):
            members = [row for row, its in zip(rows, assigned, strict=True) if its == split]
            order = np.random.default_rng((options.split_seed, number)).permutation(len(members))
            writer = ShardWriter(fs, root, split, FACE_SCHEMA, options.shard_mb * 2**20)
            for row, image in prefetch(_load, (members[i] for i in order)):
                if isinstance(image, BadRow):
                    rejected.add(row.path, str(image), bad=True)
                else:
                    values = {"image": image} | {column: getattr(row, column) for column in COLUMNS}
                    writer.add(values, str(row.label), len(image))
                    identity = f"{split}\0{row.path}\0{row.label}\0".encode() + image
                    digests.append((row.path, hashlib.sha256(identity).digest()))
                progress.update()
            done = writer.close()
            if done.rows:
                written[split] = done
    return written, hashlib.sha256(b"".join(digest for _, digest in sorted(digests))).hexdigest()


def _load(row: FaceRow) -> bytes | BadRow:
    return read_verified(row.read)


def _manifest(
    source: Source,
    space: LabelSpace,
    splits: dict[str, Split],
    rejected: RejectedRows,
    content_hash: str,
    input_hash: str,
    options: PrepareOptions,
) -> Manifest:
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
        content_hash=content_hash,
        input_hash=input_hash,
        split_options=SplitRecord(**options.model_dump(include=set(SplitRecord.model_fields))),
    )


def _input_hash(source: Source, options: PrepareOptions) -> str:
    settings = options.model_dump(exclude={"data", "format", "out", "overwrite", "image_root", "embed_images"})
    inputs = json.dumps([source.format, source.fingerprint(), settings], sort_keys=True)
    return hashlib.sha256(inputs.encode()).hexdigest()
