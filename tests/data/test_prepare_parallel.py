"""`fer prepare` on Ray, interrupted and resumed: the same bytes as in one process."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fer.data import prepare as prepare_module
from fer.data import shard_tasks
from fer.data.listing import Listing
from fer.data.manifest import ShardedDataset
from fer.data.options import PrepareOptions
from fer.data.prepare import prepare
from fer.data.rejected import RejectedRows
from fer.data.schema import FaceRow
from fer.data.sources import open_source
from fer.errors import UserError

MakeOptions = Callable[..., PrepareOptions]


@pytest.fixture
def many_shards(faces: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set of 50 images that becomes about ten shards."""
    size = next(faces.rglob("*.png")).stat().st_size
    monkeypatch.setattr(prepare_module, "MB", 5 * size)
    return faces


def hashes(dataset: ShardedDataset) -> dict[str, str]:
    """SHA-256 of the manifest and of each shard."""
    files = [path for path in Path(dataset.root).rglob("*") if path.suffix in (".parquet", ".json", ".jsonl")]
    return {str(f.relative_to(dataset.root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_the_bytes_do_not_depend_on_the_workers(
    many_shards: Path, prepare_options: MakeOptions, tmp_path: Path, ray_cluster: None, workers: int
) -> None:
    (many_shards / "happy/00.png").write_bytes(b"")
    options = {"shard_mb": 1, "max_bad_fraction": 0.1}
    alone = prepare(prepare_options(many_shards, **options))
    on_ray = prepare(
        prepare_options(many_shards, out=f"{tmp_path}/ray", workers=workers, **options), connect=lambda: None
    )
    assert len(alone.split("train").shards) > 5
    assert hashes(on_ray) == hashes(alone)
    assert on_ray.manifest.rejected == {"empty file": 1}


def test_finished_shards_are_kept(
    many_shards: Path, prepare_options: MakeOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = prepare(prepare_options(many_shards, shard_mb=1, out=f"{tmp_path}/whole"))
    options = prepare_options(many_shards, shard_mb=1)
    write = shard_tasks.write_shard
    written: list[tuple[str, int]] = []

    def dies_after_three(plan: shard_tasks.ShardPlan, split: str, index: int, *rest: object) -> object:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append((split, index))
        return write(plan, split, index, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(shard_tasks, "write_shard", dies_after_three)
        with pytest.raises(KeyboardInterrupt):
            prepare(options)
    with pytest.raises(UserError, match=r"no manifest\.json"):
        ShardedDataset(options.out)
    first = written.copy()

    def counted(plan: shard_tasks.ShardPlan, split: str, index: int, *rest: object) -> object:
        written.append((split, index))
        return write(plan, split, index, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(shard_tasks, "write_shard", counted)
    resumed = prepare(options)
    assert hashes(resumed) == hashes(whole)
    assert len(set(written)) == len(written) == sum(len(split.shards) for split in whole.manifest.splits.values())
    assert not set(first) & set(written[3:])
    assert not (tmp_path / "shards/unfinished").exists()


def interrupt_at_the_end(options: PrepareOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepare, and be stopped when all shards are written and the manifest is not."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "_manifest", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(options)


@pytest.mark.parametrize("damaged", ["train-00000.json", "plan.json"])
def test_an_incomplete_record_or_plan_counts_as_absent(
    many_shards: Path, prepare_options: MakeOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: str
) -> None:
    whole = prepare(prepare_options(many_shards, shard_mb=1, out=f"{tmp_path}/whole"))
    interrupt_at_the_end(prepare_options(many_shards, shard_mb=1), monkeypatch)
    (tmp_path / "shards/unfinished" / damaged).write_bytes(b"")
    assert hashes(prepare(prepare_options(many_shards, shard_mb=1))) == hashes(whole)


def test_records_the_plan_and_the_manifest_appear_when_they_are_complete(
    many_shards: Path, prepare_options: MakeOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace
    stopped = []

    def stop(source: object, target: object) -> None:
        if Path(str(target)).name not in stopped and str(target).endswith(".json"):
            stopped.append(Path(str(target)).name)
            raise KeyboardInterrupt
        replace(source, target)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        while "manifest.json" not in stopped:
            with pytest.raises(KeyboardInterrupt):
                prepare(prepare_options(many_shards, shard_mb=1))
    assert {"plan.json", "train-00000.json", "val-00000.json"} <= set(stopped)
    whole = prepare(prepare_options(many_shards, shard_mb=1, out=f"{tmp_path}/whole"))
    assert hashes(prepare(prepare_options(many_shards, shard_mb=1))) == hashes(whole)


def test_an_empty_manifest_can_be_overwritten(faces: Path, prepare_options: MakeOptions, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/manifest.json").write_bytes(b"")
    with pytest.raises(UserError, match=r"not a manifest of this version.*--overwrite"):
        prepare(prepare_options(faces))
    assert prepare(prepare_options(faces, overwrite=True)).manifest.counts.total() == 50


def test_other_data_does_not_continue_an_interrupted_run(
    many_shards: Path, prepare_options: MakeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_at_the_end(prepare_options(many_shards, shard_mb=1), monkeypatch)
    (many_shards / "happy/00.png").unlink()
    dataset = prepare(prepare_options(many_shards, shard_mb=1))
    assert dataset.manifest.counts.total() == 49
    listed = {f"{dataset.root}/{shard.path}" for split in dataset.manifest.splits.values() for shard in split.shards}
    assert {str(path) for path in Path(dataset.root).rglob("*.parquet")} == listed


def test_a_row_that_can_not_be_sent_to_workers_is_a_user_error(
    faces: Path, prepare_options: MakeOptions, tmp_path: Path
) -> None:
    options = prepare_options(faces)
    source = open_source(options)

    def rows() -> Iterator[FaceRow]:
        yield FaceRow("a.png", "happy", lambda: b"")

    with pytest.raises(UserError, match=r"a\.png: its `read` can't be sent .* functools\.partial"):
        Listing(tmp_path).fill(rows(), RejectedRows(options), source, seed=0)


def test_several_shards_have_the_counts_and_the_sample_of_one(
    many_shards: Path, prepare_options: MakeOptions, tmp_path: Path
) -> None:
    several = prepare(prepare_options(many_shards, shard_mb=1))
    one = prepare(prepare_options(many_shards, shard_mb=1000, out=f"{tmp_path}/one"))
    assert len(several.split("train").shards) > len(one.split("train").shards) == 1
    assert several.manifest.content_hash == one.manifest.content_hash
    for name, split in one.manifest.splits.items():
        assert several.split(name).counts == split.counts
        assert several.split(name).sample == split.sample != ""
