"""Storage on an S3 server: files, folders, models, and what is fetched."""

from __future__ import annotations

import copy
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fer.data.filesystem import FileTree
from fer.data.images import encode_png
from fer.data.options import PrepareOptions
from fer.data.prepare import prepare
from fer.data.stream.reader import read_window
from fer.data.stream.sampler import row_groups, training_windows
from fer.data.vqa.questions import read_questions
from fer.errors import BadRow, UserError
from fer.registry import locate_model, model_version, resolve_model
from fer.storage import (
    check_access,
    fetch_folder,
    get_filesystem,
    open_path,
    ray_storage,
    upload_folder,
    writable_folder,
)
from fer.tracking import TrackingOptions
from tests.fixtures.object_store import ObjectStore

COLUMNS = ("image", "label", "votes", "valence", "arousal")


@pytest.fixture
def noise(s3: ObjectStore, tmp_path: Path) -> Path:
    """Images of noise in a folder and in the bucket: 60 of 100 kB, 5.9 MB in all."""
    for i in range(60):
        path = tmp_path / f"noise/{'happy' if i % 2 else 'sad'}/{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (180, 180, 3), np.uint8)
        path.write_bytes(encode_png(pixels))
    upload_folder(tmp_path / "noise", "s3://bucket/noise")
    return tmp_path / "noise"


def test_a_tree_of_objects(s3: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "happy").mkdir()
    (tmp_path / "happy/1.png").write_bytes(b"one")
    (tmp_path / "happy/empty.png").write_bytes(b"")
    (tmp_path / ".hidden").write_bytes(b"x")
    upload_folder(tmp_path, "s3://bucket/tree")
    tree = FileTree("s3://bucket/tree/")
    assert dict(tree.files) == {"happy/1.png": 3, "happy/empty.png": 0}
    assert (tree.read("happy/1.png"), tree.read("happy/empty.png")) == (b"one", b"")
    for missing in ("happy/2.png", "../secret", "/secret"):
        with pytest.raises(BadRow, match="missing file"):
            tree.read(missing)


def test_a_file_of_questions_is_fetched_once(s3: ObjectStore) -> None:
    row = {"image_path": "1.png", "prompt": "Which expression?", "true_label": "fear", "candidate_labels": ["fear"]}
    text = "".join(json.dumps(row | {"image_path": f"{number}.png"}) + "\n" for number in range(500))
    open_path("s3://bucket/asked.jsonl").write_text(text)
    questions = list(read_questions("s3://bucket/asked.jsonl"))
    assert len(questions) == 500
    assert s3.sent("asked.jsonl") < 1.1 * len(text)


def test_mistakes_are_user_errors(s3: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no such file or folder: s3://bucket/nothing"):
        FileTree("s3://bucket/nothing")
    with pytest.raises(UserError, match="there is no bucket 'bukket'"):
        check_access("s3://bukket/runs")
    with pytest.raises(UserError, match="can't open nonsense://x"):
        check_access("nonsense://x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    get_filesystem("s3://bucket")[0].clear_instance_cache()
    with pytest.raises(UserError, match=r"can't be reached .* AWS_SECRET_ACCESS_KEY"):
        check_access("s3://bucket/runs")


def test_shards_are_the_same_as_on_disk(s3: ObjectStore, noise: Path, tmp_path: Path) -> None:
    remote = prepare(PrepareOptions(data="s3://bucket/noise", out="s3://bucket/prepared"))
    local = prepare(PrepareOptions(data=str(noise), out=str(tmp_path / "prepared")))
    assert remote.manifest.content_hash == local.manifest.content_hash
    for shard in local.split("train").shards:
        assert (s3.folder / "prepared" / shard.path).read_bytes() == Path(local.path(shard)).read_bytes()
    assert sorted(path.name for path in (s3.folder / "prepared").iterdir()) == sorted(os.listdir(local.root))


def test_an_epoch_fetches_the_bytes_of_the_shards(s3: ObjectStore, noise: Path) -> None:
    dataset = prepare(PrepareOptions(data="s3://bucket/noise", out="s3://bucket/epoch", val_split=0))
    groups = row_groups(dataset, "train")
    assert len(groups) == 2
    before = s3.sent(".parquet")
    for epoch in range(2):
        for window in training_windows(groups, seed=0, epoch=epoch, rank=0, world_size=1, rows=60):
            read_window(window, COLUMNS)
    size = sum((s3.folder / "epoch" / shard.path).stat().st_size for shard in dataset.split("train").shards)
    assert 2 * 0.99 * size < s3.sent(".parquet") - before < 2 * 1.05 * size


def test_a_model_is_found_and_downloaded_once(
    s3: ObjectStore, make_classifier: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fer.storage.CACHE", tmp_path / "cache")
    upload_folder(make_classifier(tmp_path / "model", "basic"), "s3://bucket/runs/first/model")
    tracking = TrackingOptions(storage="s3://bucket/runs")
    for reference in ("first", "s3://bucket/runs/first", "s3://bucket/runs/first/model/"):
        assert locate_model(reference, tracking) == "s3://bucket/runs/first/model"
    folder = resolve_model("first", tracking)
    assert (folder / "model.safetensors").read_bytes() == (tmp_path / "model/model.safetensors").read_bytes()
    before = s3.sent("safetensors")
    version = model_version("first", tracking)
    assert s3.sent("safetensors") == before
    upload_folder(make_classifier(tmp_path / "other", "basic", seed=1), "s3://bucket/runs/first/model")
    assert model_version("first", tracking) != version
    with pytest.raises(UserError, match=r"no model\.json in s3://bucket/nothing, s3://bucket/nothing/model;"):
        resolve_model("s3://bucket/nothing", tracking)


def test_a_folder_of_results_is_uploaded_when_it_is_complete(s3: ObjectStore) -> None:
    def write_half() -> None:
        with writable_folder("s3://bucket/results") as folder:
            (folder / "half.txt").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert not open_path("s3://bucket/results").exists()
    with writable_folder("s3://bucket/results") as folder:
        (folder / "plots").mkdir()
        (folder / "plots/a.png").write_bytes(b"png")
    assert (s3.folder / "results/plots/a.png").read_bytes() == b"png"
    assert (fetch_folder("s3://bucket/results") / "plots/a.png").read_bytes() == b"png"


def test_ray_is_given_the_same_file_system(s3: ObjectStore) -> None:
    from pyarrow.fs import FileSelector

    storage = ray_storage("s3://bucket/ray")
    filesystem = storage["storage_filesystem"]
    with filesystem.open_output_stream(f"{storage['storage_path']}/a/b.txt") as file:
        file.write(b"content")
    sent = copy.deepcopy(filesystem)  # as pickle does it
    found = sent.get_file_info(FileSelector("bucket/ray", recursive=True))
    assert [info.path for info in found if info.is_file] == ["bucket/ray/a/b.txt"]
    assert s3.secret.encode() not in pickle.dumps(filesystem)
    assert ray_storage("/runs") == {"storage_path": "/runs"}


def test_paths_of_objects(s3: ObjectStore) -> None:
    folder = open_path("s3://bucket/paths")
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(2):
        (folder / f"trials/{number}/trial.json").write_text(str(number))
    assert sorted(path.parent.name for path in folder.glob("trials/*/trial.json")) == ["0", "1"]
    (folder / "marker").touch()
    assert (folder / "marker").exists()
    (folder / "marker").unlink(missing_ok=True)
    (folder / "marker").unlink(missing_ok=True)
    assert not (folder / "marker").exists()
