from __future__ import annotations

import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from fer.data import filesystem as filesystem_module
from fer.data.filesystem import FileTree
from fer.errors import BadRow, UserError

Zipped = Callable[..., Path]


def test_files_are_relative_paths_sorted_with_sizes(tmp_path: Path) -> None:
    (tmp_path / "data/b").mkdir(parents=True)
    (tmp_path / "data/b/x.txt").write_bytes(b"four")
    (tmp_path / "data/a.txt").write_bytes(b"")
    (tmp_path / "data/.DS_Store").write_bytes(b"hidden")
    tree = FileTree(f"{tmp_path}/data/")
    assert list(tree.files.items()) == [("a.txt", 0), ("b/x.txt", 4)]
    assert tree.read("b/x.txt") == b"four"
    assert tree.display_path("b/x.txt") == "data/b/x.txt"


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    (tmp_path / "pool/happy").mkdir(parents=True)
    (tmp_path / "pool/happy/1.png").write_bytes(b"one")
    (tmp_path / "data/sad").mkdir(parents=True)
    (tmp_path / "data/sad/2.png").write_bytes(b"two")
    (tmp_path / "data/happy").symlink_to(tmp_path / "pool/happy")
    (tmp_path / "data/sad/again").symlink_to(tmp_path / "data")
    (tmp_path / "pool/happy/back").symlink_to(tmp_path / "data")
    tree = FileTree(str(tmp_path / "data"))
    assert list(tree.files) == ["happy/1.png", "sad/2.png"]
    assert tree.read("happy/1.png") == b"one"


def test_zip_reads_like_the_folder_it_was_made_from(faces: Path, zipped: Zipped) -> None:
    folder, archive = FileTree(str(faces)), FileTree(str(zipped(faces)))
    assert archive.files == folder.files
    assert archive.read("happy/00.png") == folder.read("happy/00.png")
    assert archive.display_path("happy/00.png") == "data.zip/happy/00.png"


def test_a_wrapping_folder_in_a_zip_is_the_root(faces: Path, zipped: Zipped) -> None:
    tree = FileTree(str(zipped(faces, inside="wrapper/")))
    assert "happy/00.png" in tree.files
    assert tree.read("happy/00.png") == (faces / "happy/00.png").read_bytes()
    assert tree.display_path("happy/00.png") == "data.zip/wrapper/happy/00.png"


def test_zip_is_read_from_several_threads(faces: Path, zipped: Zipped) -> None:
    tree = FileTree(str(zipped(faces)))
    paths = list(tree.files) * 20
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(tree.read, paths)) == [(faces / path).read_bytes() for path in paths]


def test_uri(faces: Path, zipped: Zipped) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(f"{faces}/", "/tree-uri/data/", recursive=True)
    memory.put(str(zipped(faces)), "/tree-uri/data.zip")
    for location in ("memory://tree-uri/data", "memory://tree-uri/data.zip"):
        assert FileTree(location).read("happy/00.png") == (faces / "happy/00.png").read_bytes()


def test_a_single_file_is_a_tree(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    (tmp_path / "other.csv").write_text("")
    tree = FileTree(str(tmp_path / "table.csv"))
    assert list(tree.files) == ["table.csv"]
    assert tree.first_line("table.csv") == "a,b"
    assert tree.display_path("table.csv") == "table.csv"


def test_bad_locations_are_user_errors(tmp_path: Path) -> None:
    (tmp_path / "not.zip").write_text("not a zip")
    for location, message in (
        (tmp_path / "absent", "no such file or folder"),
        (tmp_path / "not.zip", "not a zip file"),
        ("nonsense://x", "can't open nonsense://x"),
    ):
        with pytest.raises(UserError, match=message):
            FileTree(str(location))


def test_a_zip_bomb_is_rejected_before_it_is_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("happy/bomb.png", bytes(1 << 20))
    monkeypatch.setattr(filesystem_module, "MAX_BYTES", 1 << 16)
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_, **__: pytest.fail("was read"))
    with pytest.raises(BadRow, match="1048576 bytes, more than 65536"):
        FileTree(str(tmp_path / "bomb.zip")).read("happy/bomb.png")


def test_damaged_zip_entry_is_a_bad_row(faces: Path, zipped: Zipped) -> None:
    archive = zipped(faces)
    data = bytearray(archive.read_bytes())
    data[200:1200] = bytes(1000)  # inside the first entry's compressed bytes
    archive.write_bytes(data)
    tree = FileTree(str(archive))
    with pytest.raises(BadRow, match="damaged"):
        tree.read(next(iter(tree.files)))
    with pytest.raises(BadRow, match="missing file"):
        tree.read("happy/absent.png")


@pytest.mark.parametrize("damage", ["encrypted", "damaged"])
def test_a_damaged_table_in_a_zip_is_a_user_error(tmp_path: Path, zipped: Zipped, damage: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/fer2013new.csv").write_text("".join(f"{i * 7919}\n" for i in range(2000)))
    archive = zipped(tmp_path / "data")
    data = bytearray(archive.read_bytes())
    if damage == "encrypted":
        data[data.index(b"PK\x01\x02") + 8] |= 1
    else:
        data[60:1060] = bytes(1000)
    archive.write_bytes(data)
    tree = FileTree(str(archive))
    for read in (tree.first_line, tree.spool):
        with pytest.raises(UserError, match=r"fer2013new\.csv is damaged or encrypted"):
            read("fer2013new.csv")


def test_fingerprint_changes_with_names_and_sizes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    before = FileTree(str(tmp_path)).fingerprint()
    assert FileTree(str(tmp_path)).fingerprint() == before
    (tmp_path / "a").write_bytes(b"12")
    assert FileTree(str(tmp_path)).fingerprint() != before
