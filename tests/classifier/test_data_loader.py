"""The classifier's data loader: labels, votes and affect from rows, and the same pixels wherever they are decoded."""

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from fer.classifier.data_loader import Batch, Collate, DecodeImages, FaceDataLoader, compact
from fer.classifier.model import new_spec
from fer.classifier.options import TrainConfig
from fer.classifier.spec import ModelSpec
from fer.data.images import encode_png
from fer.data.manifest import ShardedDataset
from fer.data.schema import FACE_SCHEMA
from fer.data.stream.reader import ROW_SEED, read_window
from fer.data.stream.sampler import row_groups, sequential_windows
from fer.labels import SPACES


def spec(**options: object) -> ModelSpec:
    return new_spec(TrainConfig(data="x", img_size=24, **options), SPACES["fer2013"])  # type: ignore[arg-type]


def table(**columns: object) -> pa.Table:
    image = encode_png(np.full((30, 20, 3), (200, 100, 50), np.uint8))
    row = {
        "image": image,
        "label": "happy",
        "path": "a",
        "group": None,
        "votes": None,
        "valence": None,
        "arousal": None,
    }
    rows = pa.Table.from_pylist([row | columns, row | {"label": "sad"}], FACE_SCHEMA)
    return rows.append_column(ROW_SEED, pa.array([1, 2]))


def collate(rows: pa.Table, model: ModelSpec, with_votes: bool = False) -> Batch:
    classes = {label: index for index, label in enumerate(model.labels)}
    return Collate(model, DecodeImages(model, None), classes, with_votes)(rows)


def test_rows_become_tensors() -> None:
    batch = collate(table(valence=0.5, arousal=-0.25), spec())
    assert batch["pixels"].shape == (2, 24, 24, 3)
    assert batch["pixels"][0, 12, 12].tolist() == [200, 100, 50]
    assert batch["label"].tolist() == [3, 5]
    assert batch["affect"][0].tolist() == [0.5, -0.25]
    assert batch["affect"][1].isnan().all()
    assert collate(table(), spec(in_chans=1))["pixels"].shape == (2, 24, 24, 1)


def test_votes_are_soft_targets_and_rows_without_votes_keep_their_label() -> None:
    votes = [0.0, 0.0, 0.0, 0.5, 0.25, 0.25, 0.0]
    batch = collate(table(votes=votes), spec(), with_votes=True)
    assert batch["votes"][0].tolist() == votes
    assert batch["votes"][1].tolist() == [0, 0, 0, 0, 0, 1, 0]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_batches_resume_in_mid_epoch_and_are_the_same_wherever_images_are_decoded(small_shards: Path) -> None:
    dataset = ShardedDataset(str(small_shards))
    found: dict[str, list[Batch]] = {}
    for decode in ("worker", "processes", "remote"):
        config = TrainConfig(data=str(small_shards), img_size=24, batch_size=32, epochs=2, seed=4, decode=decode)
        loader = FaceDataLoader(dataset, config, new_spec(config, dataset.manifest.space), rank=1, world_size=2)
        found[decode] = list(loader.train_batches(epoch=0, consumed=[(2, 0)]))
        assert len(found[decode]) == 2 * loader.batches_per_epoch
        resumed = list(loader.train_batches(epoch=1, consumed=[(2, 64)]))
        assert len(resumed) == loader.batches_per_epoch - 2
        for late, again in zip(found[decode][loader.batches_per_epoch + 2 :], resumed, strict=True):
            assert torch.equal(late["pixels"], again["pixels"])
    for one, *others in zip(*found.values(), strict=True):
        for other in others:
            assert torch.equal(one["pixels"], other["pixels"])
            assert torch.equal(one["label"], other["label"])


def test_a_batch_is_sent_to_another_process_without_the_rest_of_its_table() -> None:
    whole = pa.table({"image": [b"x" * 1000] * 100})
    part = whole.slice(10, 5)
    assert len(pickle.dumps(part)) > 100_000, "pyarrow compacts slices itself now: `compact` can go"
    assert compact(part) == part
    assert len(pickle.dumps(compact(part))) < 6_000


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 3)])
def test_other_workers_take_the_rest_of_an_epoch(small_shards: Path, before: int, after: int) -> None:
    """No row of the epoch twice, and none missing but what does not fill a batch on each worker."""
    dataset = ShardedDataset(str(small_shards))
    config = TrainConfig(data=str(small_shards), img_size=24, batch_size=16, epochs=2, seed=4)

    def paths(workers: int, consumed: list[tuple[int, int]], batches: int | None) -> list[str]:
        """The rows of the next batches of all workers."""
        found = []
        for rank in range(workers):
            model = new_spec(config, dataset.manifest.space)
            loader = FaceDataLoader(dataset, config, model, rank=rank, world_size=workers)
            rows = [
                path
                for window in loader.train_windows(1, consumed)
                for path in read_window(window, ["path"])["path"].to_pylist()
            ]
            assert len(rows) == loader.batches_left(consumed) * 16
            found += rows if batches is None else rows[: batches * 16]
        return found

    seen = paths(before, [(before, 0)], 3)
    seen += paths(after, [(before, 48), (after, 0)], 2)
    seen += paths(after, [(before, 48), (after, 32)], None)
    assert len(seen) == len(set(seen))
    assert dataset.split("train").rows - len(seen) < after * 16


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_validation_sees_every_row_once(small_shards: Path) -> None:
    dataset = ShardedDataset(str(small_shards))
    config = TrainConfig(data=str(small_shards), img_size=24, batch_size=32)
    labels = []
    for rank in range(2):
        loader = FaceDataLoader(dataset, config, new_spec(config, dataset.manifest.space), rank=rank, world_size=2)
        labels += [label for batch in loader.val_batches() for label in batch["label"].tolist()]
    stored = sequential_windows(row_groups(dataset, "val"), rank=0, world_size=1)
    names = [name for window in stored for name in read_window(window, ["label"])["label"].to_pylist()]
    assert [dataset.manifest.labels[label] for label in labels] == names
