from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest

from fer.data import prepare as prepare_module
from fer.data import shard_tasks, shards
from fer.data.manifest import ShardedDataset
from fer.data.options import DataOptions, PrepareOptions
from fer.data.prepare import open_dataset, prepare
from fer.data.schema import FACE_SCHEMA
from fer.data.stream import prefetch as prefetch_module
from fer.errors import UserError
from jobs import prepare as job

WriteImages = Callable[..., Path]
MakeOptions = Callable[..., PrepareOptions]


def stored(dataset: ShardedDataset, split: str) -> list[dict[str, object]]:
    """Rows of a split, read from its shards, which must agree with the manifest."""
    rows = []
    for shard in dataset.split(split).shards:
        with fsspec.open(dataset.path(shard), "rb") as file:
            table = pq.ParquetFile(file)
            assert table.schema_arrow.equals(FACE_SCHEMA)
            groups = [table.metadata.row_group(i).num_rows for i in range(table.num_row_groups)]
            assert groups == shard.row_groups
            rows += table.read().to_pylist()
    assert Counter(row["label"] for row in rows) == dataset.split(split).counts
    return rows


def test_every_row_is_written_once_with_its_image(faces: Path, prepare_options: MakeOptions, tmp_path: Path) -> None:
    dataset = prepare(prepare_options(faces, val_split=0.2, test_split=0.2))
    rows = {split: stored(dataset, split) for split in ("train", "val", "test")}
    assert [len(part) for part in rows.values()] == [32, 8, 10]
    kept = {str(row["path"]): row["image"] for part in rows.values() for row in part}
    assert kept == {f"data/{path.relative_to(faces)}": path.read_bytes() for path in faces.rglob("*.png")}
    assert dataset.manifest.counts == {"happy": 20, "sad": 20, "fear": 10}
    assert dataset.manifest.rejected == {}
    assert (tmp_path / "shards/split=train/part-00000.parquet").is_file()
    assert [str(row["path"]) for row in rows["train"]] != sorted(str(row["path"]) for row in rows["train"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "shards"]


def test_shards_and_row_groups_stay_small(
    faces: Path, prepare_options: MakeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = next(faces.rglob("*.png")).stat().st_size
    monkeypatch.setattr(shards, "GROUP_ROWS", 8)
    monkeypatch.setattr(prepare_module, "MB", image * 10)
    dataset = prepare(prepare_options(faces, val_split=0, shard_mb=2))
    stored(dataset, "train")
    groups = [shard.row_groups for shard in dataset.split("train").shards]
    assert len(groups) in (2, 3)  # 20 images each, of about the same size
    assert all(8 in each and max(each) == 8 for each in groups)
    monkeypatch.setattr(shards, "GROUP_BYTES", image * 4)
    dataset = prepare(prepare_options(faces, val_split=0, overwrite=True, shard_mb=64))
    assert max(max(shard.row_groups) for shard in dataset.split("train").shards) <= 5


def test_the_content_hash_does_not_depend_on_the_order(faces: Path, tmp_path: Path) -> None:
    def content(out: str, seed: int) -> tuple[str, list[object]]:
        options = PrepareOptions(data=str(faces), out=f"{tmp_path}/{out}", val_split=0, split_seed=seed)
        dataset = prepare(options)
        return dataset.manifest.content_hash, [row["path"] for row in stored(dataset, "train")]

    (first, order), (again, same), (other, different) = content("a", 0), content("b", 0), content("c", 1)
    assert first == again == other
    assert order == same != different


def test_preparing_again_does_nothing(
    faces: Path, prepare_options: MakeOptions, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(prepare_options(faces))
    monkeypatch.setattr(prepare_module, "_write", lambda *_: pytest.fail("wrote again"))
    assert prepare(prepare_options(faces)).manifest == first.manifest
    assert "is up to date" in capsys.readouterr().out


def test_other_content_or_options_need_another_out_or_overwrite(faces: Path, prepare_options: MakeOptions) -> None:
    first = prepare(prepare_options(faces))
    with pytest.raises(UserError, match="choose another --out, or --overwrite"):
        prepare(prepare_options(faces, val_split=0.3))
    (faces / "happy/00.png").unlink()
    with pytest.raises(UserError, match="choose another --out, or --overwrite"):
        prepare(prepare_options(faces))
    second = prepare(prepare_options(faces, overwrite=True))
    assert second.manifest.counts.total() == 49
    assert second.manifest.content_hash != first.manifest.content_hash


def test_corrected_labels_are_noticed(
    write_images: WriteImages, prepare_options: MakeOptions, fer2013_csv: Path, tmp_path: Path
) -> None:
    data = write_images("train_00000.jpg", "train_00001.jpg", root="rafdb")
    labels = data / "list_patition_label.txt"
    labels.write_text("train_00000.jpg 4\ntrain_00001.jpg 4\n")
    prepare(prepare_options(data, val_split=0))
    labels.write_text("train_00000.jpg 4\ntrain_00001.jpg 5\n")  # of the same size
    with pytest.raises(UserError, match="choose another --out, or --overwrite"):
        prepare(prepare_options(data, val_split=0))
    dataset = prepare(prepare_options(data, val_split=0, overwrite=True))
    assert dataset.manifest.counts == {"happiness": 1, "sadness": 1}

    options = prepare_options(fer2013_csv, max_bad_fraction=0.9, out=f"{tmp_path}/fer2013")
    prepare(options)
    fer2013_csv.write_bytes(fer2013_csv.read_bytes().replace(b"\n6,", b"\n5,"))
    with pytest.raises(UserError, match="choose another --out, or --overwrite"):
        prepare(options)


def test_overwrite_prepares_again_what_looks_the_same(faces: Path, prepare_options: MakeOptions) -> None:
    one, other = faces / "happy/00.png", faces / "happy/01.png"
    size = max(one.stat().st_size, other.stat().st_size)
    for path in (one, other):
        path.write_bytes(path.read_bytes().ljust(size, b"\0"))
    before = prepare(prepare_options(faces)).manifest
    one.write_bytes(other.read_bytes())
    after = prepare(prepare_options(faces, overwrite=True)).manifest
    assert before.input_hash == after.input_hash
    assert before.content_hash != after.content_hash


def test_other_content_in_out_is_never_replaced(faces: Path, prepare_options: MakeOptions, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="other files than shards"):
        prepare(prepare_options(faces, overwrite=True))
    (tmp_path / "shards/thesis.txt").rename(tmp_path / "thesis.txt")
    prepare(prepare_options(faces))
    (tmp_path / "thesis.txt").rename(tmp_path / "shards/thesis.txt")
    with pytest.raises(UserError, match="other files than shards"):
        prepare(prepare_options(faces, overwrite=True, val_split=0.5))
    assert (tmp_path / "shards/thesis.txt").read_text() == "precious"


@pytest.mark.parametrize("remote", [False, True])
def test_an_interrupted_run_leaves_nothing_that_looks_complete(
    faces: Path, prepare_options: MakeOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remote: bool
) -> None:
    options = prepare_options(faces, **({"out": "memory://interrupted/shards"} if remote else {}))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "_manifest", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(options)
    with pytest.raises(UserError, match=r"no manifest\.json"):
        ShardedDataset(options.out)
    assert prepare(options).manifest.counts.total() == 50


def test_few_images_are_in_memory_at_a_time(
    faces: Path, prepare_options: MakeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, written, ahead = [], [], []
    monkeypatch.setattr(prefetch_module, "READ_AHEAD", 4)
    load, add = shard_tasks.load_image, shards.ShardWriter.add
    monkeypatch.setattr(shard_tasks, "load_image", lambda row, cutter: loaded.append(row) or load(row, cutter))

    def watched(writer: shards.ShardWriter, values: dict[str, object], label: str, size: int) -> None:
        ahead.append(len(loaded) - len(written))
        written.append(values)
        add(writer, values, label, size)

    monkeypatch.setattr(shards.ShardWriter, "add", watched)
    prepare(prepare_options(faces))
    assert len(written) == 50
    assert max(ahead) <= 4


def test_out_and_data_may_be_uris(faces: Path, prepare_options: MakeOptions) -> None:
    fsspec.filesystem("memory").put(f"{faces}/", "/prepare/data/", recursive=True)
    dataset = prepare(prepare_options("memory://prepare/data", out="memory://prepare/shards"))
    assert len(stored(dataset, "train")) == 45
    assert (
        prepare(prepare_options("memory://prepare/data", out="memory://prepare/shards")).root
        == "memory://prepare/shards"
    )


def test_the_test_split_stands_in_for_validation(
    write_images: WriteImages, prepare_options: MakeOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_images(*(f"{split}/happy/{i}.png" for split in ("train", "test") for i in range(10)))
    dataset = prepare(prepare_options(data, val_split=0))
    assert "warning: no validation split" in capsys.readouterr().out
    assert dataset.split("val") == dataset.split("test")
    dataset = prepare(prepare_options(data, val_split=0.2, overwrite=True))
    assert {name: split.rows for name, split in dataset.manifest.splits.items()} == {"train": 8, "val": 2, "test": 10}


def test_votes_valence_and_groups_are_in_the_shards(
    write_images: WriteImages, prepare_options: MakeOptions, tmp_path: Path
) -> None:
    data = write_images("img/1/a.jpg", "anger/S005_001_00000011.png")
    (data / "training.csv").write_text(
        "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal\n"
        "1/a.jpg,0,0,24,24,1;2,1,0.5,-0.25\n"
    )
    (row,) = stored(prepare(prepare_options(data, val_split=0)), "train")
    assert (row["valence"], row["arousal"], row["votes"], row["group"]) == (0.5, -0.25, None, None)
    (data / "training.csv").unlink()
    (row,) = stored(prepare(prepare_options(data, format="folder", val_split=0, out=f"{tmp_path}/b")), "train")[:1]
    groups = {row["group"] for row in stored(ShardedDataset(f"{tmp_path}/b"), "train")}
    assert groups == {"S005", None}


def test_open_dataset_prepares_once_into_the_cache(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = f"{tmp_path}/cache"
    dataset = open_dataset(DataOptions(data=str(faces)), cache)
    assert Path(dataset.root).parent == Path(cache)
    assert Path(dataset.root).name.startswith("data-")
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "_write", lambda *_: pytest.fail("wrote again"))
        assert open_dataset(DataOptions(data=str(faces)), cache).root == dataset.root
    other = open_dataset(DataOptions(data=str(faces), val_split=0.5), cache)
    assert other.root != dataset.root
    assert other.split("val").rows == 25


def test_open_dataset_opens_shards(faces: Path, prepare_options: MakeOptions, tmp_path: Path) -> None:
    shards_at = prepare(prepare_options(faces)).root
    assert open_dataset(DataOptions(data=shards_at), f"{tmp_path}/cache").root == shards_at
    assert not (tmp_path / "cache").exists()
    with pytest.raises(UserError, match="are in label space custom"):
        open_dataset(DataOptions(data=shards_at, label_space="six-class"), f"{tmp_path}/cache")
    with pytest.raises(UserError, match=r"no manifest\.json"):
        open_dataset(DataOptions(data=str(faces), format="shards"), f"{tmp_path}/cache")


def test_the_job_prints_counts_rejected_rows_and_the_next_command(
    faces: Path, prepare_options: MakeOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    (faces / "happy/00.png").write_bytes(b"")
    options = prepare_options(faces, max_bad_fraction=0.1)
    job.main(options)
    printed = capsys.readouterr().out
    for words in ("train", "val", "happy", "sad", "fear", "1  empty file", "Prepared 49 faces", options.out):
        assert words in printed


@pytest.mark.slow
def test_real_fer2013(shared_data: Path, prepare_options: MakeOptions) -> None:
    dataset = prepare(prepare_options(shared_data / "fer2013.zip"))
    assert {name: split.rows for name, split in dataset.manifest.splits.items()} == {
        "train": 25_839,
        "val": 2_870,
        "test": 7_178,
    }
    assert dataset.manifest.rejected == {}
