"""Downloading a model file from a real server that breaks off, refuses ranges, or sends something else."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from fer.downloads import CHUNK, MODEL_FILES, ModelFile, download
from fer.errors import UserError
from jobs.__main__ import main

CONTENT = np.random.default_rng(0).bytes(200_000)


@dataclass
class Publisher:
    """What the server sends, and the ranges that it was asked for."""

    content: bytes = CONTENT
    takes_ranges: bool = True
    breaks_off_after: int | None = None
    """Bytes of a response, after which the connection is closed."""
    asked: list[str | None] = field(default_factory=list)


@pytest.fixture
def publisher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    """Publishes a file `model` of the table on this machine; the cache folder is empty."""
    state = Publisher()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
            state.asked.append(self.headers["Range"])
            if self.path != "/model.onnx":
                self.send_error(404)
                return
            start = int(wanted[1]) if wanted and state.takes_ranges else 0
            self.send_response(206 if wanted and state.takes_ranges else 200)
            self.send_header("Content-Length", str(len(state.content) - start))
            self.end_headers()
            self.wfile.write(state.content[start:][: state.breaks_off_after])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("FER_CACHE", str(tmp_path / "cache"))
    publish(monkeypatch, f"http://127.0.0.1:{server.server_port}/model.onnx")
    yield state
    server.shutdown()
    server.server_close()


def publish(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    file = ModelFile(address, len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), "--detector-model")
    monkeypatch.setitem(MODEL_FILES, "model", file)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fails() -> str:
    """The message of a download that fails: one line."""
    with pytest.raises(UserError) as error:
        download("model")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_file_is_downloaded_once(publisher: Publisher, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "model"]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path == tmp_path / "cache/model.onnx"
    assert path.read_bytes() == CONTENT
    assert files(path.parent) == ["model.onnx"]
    assert main(["fetch", "model"]) == 0
    assert publisher.asked == ["bytes=0-"]


def test_an_interrupted_download_is_continued(publisher: Publisher, tmp_path: Path) -> None:
    publisher.breaks_off_after = 150_000
    assert re.search(r"150000 of 200000 bytes: `fer fetch model` continues", fails())
    assert files(tmp_path / "cache") == ["model.onnx.part"]
    assert download("model").read_bytes() == CONTENT
    assert publisher.asked == ["bytes=0-", "bytes=150000-"]
    assert files(tmp_path / "cache") == ["model.onnx"]


def test_a_server_without_ranges_sends_the_whole_file_again(publisher: Publisher) -> None:
    publisher.takes_ranges, publisher.breaks_off_after = False, 150_000
    fails()
    publisher.breaks_off_after = None
    assert download("model").read_bytes() == CONTENT


def test_a_download_that_was_killed_before_the_check_is_checked(publisher: Publisher, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/model.onnx.part").write_bytes(CONTENT)
    assert download("model").read_bytes() == CONTENT
    assert not publisher.asked


@pytest.mark.parametrize("content", [CONTENT[::-1], CONTENT + b"more", CONTENT * 20])
def test_another_file_is_not_installed(publisher: Publisher, tmp_path: Path, content: bytes) -> None:
    publisher.content = content
    assert "SHA-256" in fails()
    assert files(tmp_path / "cache") == []


def test_no_more_than_the_size_of_the_file_is_stored(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.content = CONTENT * 20
    monkeypatch.setattr(Path, "unlink", lambda self: None)
    fails()
    assert (tmp_path / "cache/model.onnx.part").stat().st_size <= len(CONTENT) + CHUNK


def test_a_damaged_file_in_the_cache_is_replaced(publisher: Publisher, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/model.onnx").write_bytes(CONTENT[:1000])
    assert download("model").read_bytes() == CONTENT


def test_without_a_network_the_message_names_the_ways_out(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(monkeypatch, "http://127.0.0.1:1/model.onnx")
    assert main(["fetch", "model"]) == 2
    message = capsys.readouterr().err
    assert re.search(r"\(Connection refused\).*copy the file into .*cache.*--detector-model", message)
    assert len(message.splitlines()) == 1
    publish(monkeypatch, "http://no-such-host.invalid/model.onnx")
    assert "can't download" in fails()


def test_a_file_that_is_no_longer_published(publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, MODEL_FILES["model"].address.replace("model.onnx", "moved.onnx"))
    assert "404" in fails()


def test_a_folder_that_cannot_be_written(publisher: Publisher, tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"a file")
    assert "File exists" in fails()


def test_an_unknown_name() -> None:
    with pytest.raises(UserError, match="no model file 'retina'; known: yunet"):
        download("retina")


def test_the_pinned_yunet_is_the_file_that_the_tests_use(shared_data: Path) -> None:
    file = MODEL_FILES["yunet"]
    data = (shared_data / "models" / file.name).read_bytes()
    assert (len(data), hashlib.sha256(data).hexdigest()) == (file.size, file.sha256)
