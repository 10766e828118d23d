"""`fer prepare`: from a data set in its published form to checked, shuffled Parquet shards with a manifest."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import fsspec
import numpy as np
from tqdm import tqdm

from fer.data.images import check_image, decode_rgb
from fer.data.manifest import MANIFEST, QUARANTINE, Manifest, ShardedDataset, Split
from fer.data.mapping import resolve
from fer.data.options import DataOptions, PrepareOptions
from fer.data.quarantine import Quarantine
from fer.data.rows import SPLITS, FaceRow, Source
from fer.data.shards import ShardWriter, staged
from fer.data.sources import open_source
from fer.data.splits import assign
from fer.data.tree import locate
from fer.errors import BadRow, UserError
from fer.labels import LabelSpace, get_space

READERS = 8
READ_AHEAD = 32
"""Images that are read before they are written: the most that memory holds besides one row group."""


def prepare(options: PrepareOptions) -> ShardedDataset:
    """Write the data set's shards to ``options.out``, or say that they are there already.

    Raises UserError for data that can't be read, too many bad rows, or an ``out`` that holds something else.
    """
    source = open_source(options)
    return _prepare(source, options, _request(source, options))


def open_dataset(options: DataOptions, cache: str) -> ShardedDataset:
    """Open shards, or prepare any other data set into a folder of ``cache`` once and open that.

    Raises UserError as `prepare` does, and for a label space that shards don't have: they can't be mapped any more.
    """
    if options.format == "shards" or _holds_shards(options.data):
        dataset = ShardedDataset(options.data)
        if options.label_space not in (None, dataset.manifest.label_space):
            raise UserError(
                f"the shards in {options.data} are in label space {dataset.manifest.label_space}: run "
                f"`fer prepare --label-space {options.label_space}` on the data set they were made from"
            )
        return dataset
    source = open_source(options)
    chosen = options.model_dump(include=set(DataOptions.model_fields))
    request = _request(source, PrepareOptions(**chosen, out=cache))
    stem = posixpath.splitext(posixpath.basename(locate(options.data)[1]))[0]
    name = re.sub(r"[^\w.-]+", "-", stem) or "data"
    return _prepare(source, PrepareOptions(**chosen, out=f"{cache.rstrip('/')}/{name}-{request[:12]}"), request)


def _prepare(source: Source, options: PrepareOptions, request: str) -> ShardedDataset:
    if _is_done(options, request):
        print(f"{options.out} holds this data set already: nothing to do", flush=True)
        return ShardedDataset(options.out)
    space = get_space(options.label_space) if options.label_space else source.space
    rows = sorted(resolve(source.rows(), source.space, space), key=lambda row: row.path)
    quarantine = Quarantine(options)
    usable = quarantine.sift(rows)
    quarantine.refuse_if_too_much()

    with staged(options.out) as (fs, root):
        splits, content_hash = _write(fs, root, usable, quarantine, options)
        quarantine.refuse_if_too_much()
        quarantine.write(fs, f"{root}/{QUARANTINE}")
        manifest = _manifest(source, space, splits, quarantine, content_hash, request, options)
        with fs.open(f"{root}/{MANIFEST}", "w") as file:
            file.write(manifest.model_dump_json(indent=2))
    quarantine.clear()
    return ShardedDataset(options.out)


def _write(
    fs: fsspec.AbstractFileSystem, root: str, rows: list[FaceRow], quarantine: Quarantine, options: PrepareOptions
) -> tuple[dict[str, Split], str]:
    """Read, check and write the rows of each split in shuffled order; return the splits and the content hash."""
    assigned = assign(rows, val_split=options.val_split, test_split=options.test_split, seed=options.split_seed)
    written: dict[str, Split] = {}
    digests: list[tuple[str, bytes]] = []
    progress = tqdm(total=len(rows), desc="prepare", unit=" images", disable=None)
    with ThreadPoolExecutor(READERS) as pool, progress:
        for number, split in enumerate(SPLITS):
            members = [row for row, its in zip(rows, assigned, strict=True) if its == split]
            order = np.random.default_rng((options.split_seed, number)).permutation(len(members))
            writer = ShardWriter(fs, root, split, options.shard_mb * 2**20)
            for row, image in _read_ahead(pool, _load, (members[i] for i in order)):
                if isinstance(image, BadRow):
                    quarantine.add(row, str(image), bad=True)
                else:
                    digests.append((row.path, writer.add(row, image)))
                progress.update()
            done = writer.close()
            if done.rows:
                written[split] = done
    return written, hashlib.sha256(b"".join(digest for _, digest in sorted(digests))).hexdigest()


def _load(row: FaceRow) -> bytes | BadRow:
    """A row's image, fully checked; or why it can't be used."""
    try:
        image = row.read()
        check_image(image)
        decode_rgb(image)  # training decodes with OpenCV, which reads fewer formats
    except BadRow as error:
        return error
    except FileNotFoundError:
        return BadRow("missing file")
    except OSError as error:
        return BadRow(f"can't be read: {error.strerror or type(error).__name__}")
    return image


def _read_ahead(
    pool: ThreadPoolExecutor, load: Callable[[FaceRow], bytes | BadRow], rows: Iterable[FaceRow]
) -> Iterator[tuple[FaceRow, bytes | BadRow]]:
    """Each row and what ``load`` makes of it, in order, at most READ_AHEAD of them loaded at a time."""
    waiting: deque[tuple[FaceRow, Future[bytes | BadRow]]] = deque()
    for row in rows:
        waiting.append((row, pool.submit(load, row)))
        if len(waiting) == READ_AHEAD:
            first, future = waiting.popleft()
            yield first, future.result()
    for row, future in waiting:
        yield row, future.result()


def _manifest(
    source: Source,
    space: LabelSpace,
    splits: dict[str, Split],
    quarantine: Quarantine,
    content_hash: str,
    request: str,
    options: PrepareOptions,
) -> Manifest:
    if "val" not in splits and "test" in splits and not options.val_split:
        print("warning: no validation part and --val-split 0: the test part is used for validation too", flush=True)
        splits = splits | {"val": splits["test"]}
    return Manifest(
        source=options.data,
        format=source.format,
        label_space=space.name,
        labels=list(space.labels),
        splits={name: splits[name] for name in SPLITS if name in splits},
        set_aside=quarantine.counts,
        content_hash=content_hash,
        request=request,
    )


def _request(source: Source, options: PrepareOptions) -> str:
    chosen = options.model_dump(exclude={"data", "format", "out", "overwrite"})
    request = json.dumps([source.format, source.fingerprint(), chosen], sort_keys=True)
    return hashlib.sha256(request.encode()).hexdigest()


def _holds_shards(location: str) -> bool:
    fs, root = locate(location)
    return fs.exists(f"{root}/{MANIFEST}")


def _is_done(options: PrepareOptions, request: str) -> bool:
    """Whether ``out`` holds the outcome of this request. Raises UserError if it holds what must not be replaced."""
    fs, root = locate(options.out)
    if _holds_shards(options.out):
        if ShardedDataset(options.out).manifest.request == request:
            return True
        if not options.overwrite:
            raise UserError(f"{options.out} holds shards of other data or options: give another --out, or --overwrite")
    held = [posixpath.basename(path.rstrip("/")) for path in fs.ls(root, detail=False)] if fs.isdir(root) else []
    if fs.isfile(root) or any(not name.startswith("split=") and name not in (MANIFEST, QUARANTINE) for name in held):
        raise UserError(f"{options.out} holds other files than shards: give another --out")
    return False
