"""What a process logs to MLflow is appended to a file on disk, and a thread sends it: a job never waits for MLflow.

A process has a file of its own, in the folder of its run, and holds a lock on it. If it dies, the next process of the
run finds the file and sends it; so does `fer mlflow sync`. An entry whose answer was lost is sent again, which stores
nothing twice: the primary key of a point in MLflow's SQL stores is its metric, step, time and value, and the time is
in the file.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from fer.downloads import cache_folder
from fer.errors import UserError
from fer.mlflow_client import connect, is_refusal
from fer.mlflow_send import COPIES, POINTS_PER_CALL, Entry, send

FLUSH_SECONDS = 60.0
"""How long the end of a job waits for MLflow, at most."""
WORKER_FLUSH_SECONDS = 20.0
"""How long a worker does. What it leaves, the job's own process sends."""
RETRY_SECONDS = 5.0
READ_BYTES = 2**20
PREFIX, SUFFIX, REFUSED = "unsent-", ".jsonl", ".refused"


class EntryFile:
    """Entries as JSON lines, readable by their owner only, which one process appends to or sends at a time."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self.descriptor = path, descriptor
        self.sent = 0
        """Position of the first entry that has not been sent."""
        self.lock = threading.Lock()

    @classmethod
    def create(cls, folder: Path) -> EntryFile:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = folder / f"{PREFIX}{time.time_ns()}-{socket.gethostname()}-{os.getpid()}{SUFFIX}"
        new = path.with_suffix(".new")  # no other process may find it before it is locked
        descriptor = os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        new.rename(path)
        return cls(path, descriptor)

    @classmethod
    def claim(cls, path: Path) -> EntryFile | None:
        """The file of a process that has ended; None if one is using it, or has just sent it."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        if os.fstat(descriptor).st_nlink == 0:  # deleted before it was locked
            os.close(descriptor)
            return None
        return cls(path, descriptor)

    def append(self, entry: Entry) -> None:
        line = json.dumps(entry).encode() + b"\n"
        with self.lock:
            written = os.write(self.descriptor, line)
        assert written == len(line), f"{self.path}: the disk is full"

    def next_batch(self) -> tuple[Entry, int] | None:
        """The next entry, and the position of its end. Points of one run that follow each other are one entry."""
        batch, end = None, self.sent
        for line in self._lines():
            entry = json.loads(line)
            if batch is None:
                batch = entry
            elif _joinable(batch, entry):
                batch["metrics"] += entry["metrics"]
            else:
                break
            end += len(line)
        return None if batch is None else (batch, end)

    def mark_sent(self, end: int) -> None:
        with self.lock:
            self.sent = end
            if end == os.fstat(self.descriptor).st_size:
                os.ftruncate(self.descriptor, 0)
                self.sent = 0

    def close(self) -> None:
        """Unlock the file, and delete it if all of it has been sent."""
        if os.fstat(self.descriptor).st_size == 0:
            self.path.unlink(missing_ok=True)
        os.close(self.descriptor)

    def _lines(self) -> Iterator[bytes]:
        """Complete lines from ``sent`` on. (A process that was killed may have left half of one.)"""
        position, rest = self.sent, b""
        while chunk := os.pread(self.descriptor, READ_BYTES, position):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (line + b"\n" for line in lines)
            position += len(chunk)


def _joinable(batch: Entry, entry: Entry) -> bool:
    same = all(batch.get(key) == entry.get(key) for key in ("uri", "run"))
    return (
        same
        and "metrics" in batch
        and "metrics" in entry
        and (len(batch["metrics"]) + len(entry["metrics"]) <= POINTS_PER_CALL)
    )


class Sender:
    """This process's file in a folder, and the thread that sends it, with what earlier processes left in the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = EntryFile.create(folder)
        self.changed = threading.Condition()
        self.requested = self.done = 0
        """Numbers of the last entry, or wait, and of the last one that everything before is sent of."""
        self.down = self.gave_up = self.announced = self.closed = False
        threading.Thread(target=self._run, name="mlflow", daemon=True).start()

    def append(self, entry: Entry) -> None:
        self.file.append(entry)
        with self.changed:
            self.requested += 1
            self.changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Wait until all that is in the folder is sent, except by processes that still run; not again for long."""
        with self.changed:
            self.requested = number = self.requested + 1
            self.changed.notify_all()
            sent = self.changed.wait_for(lambda: self.done >= number, 0.1 if self.gave_up and self.down else seconds)
            self.gave_up = not sent
            return sent

    def close(self) -> None:
        """End the thread, and delete the file, which has been sent, and the folders, unless they are used."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        self.file.close()
        for folder in (self.folder / COPIES, self.folder):
            with suppress(OSError):
                folder.rmdir()

    def _run(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.closed or self.requested > self.done)
                if self.closed:
                    return
                number = self.requested
            errors = [error for path in entry_files(self.folder) if (error := self._send(path))]
            if errors:
                if not self.down:
                    print(f"{_is_down(errors[0])}; what the job logs is kept in {self.folder}", flush=True)
                self.down = True
                time.sleep(RETRY_SECONDS)
                continue
            if self.down:
                print("MLflow is back: all that was logged meanwhile is sent", flush=True)
                self.down = False
            with self.changed:
                self.done = number
                self.changed.notify_all()

    def _send(self, path: Path) -> Exception | None:
        """Send a file, if no other process does; returns why it can't be sent now."""
        file = self.file if path == self.file.path else EntryFile.claim(path)
        try:
            if file:
                send_file(file)
        except Exception as error:
            return error
        finally:
            if file and file is not self.file:
                file.close()
        return None


def _is_down(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return f"MLflow is down ({lines[0][:160]})"


def entry_files(folder: Path) -> list[Path]:
    """The files of entries in a folder, the oldest first."""
    return sorted(folder.glob(f"{PREFIX}*{SUFFIX}"))


def send_file(file: EntryFile) -> int:
    """Send the entries of a file in order; returns their number. Raises what MLflow's client does if it can't now.

    An entry that MLflow refuses for good is moved to a file beside, and a line says so.
    """
    count = 0
    while batch := file.next_batch():
        entry, end = batch
        try:
            send(connect(entry["uri"]), entry, file.path.parent)
        except Exception as error:
            if not is_refusal(error, entry["uri"]):
                raise
            refused = file.path.with_suffix(REFUSED)
            with open(os.open(refused, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600), "a") as stream:
                stream.write(json.dumps(entry) + "\n")
            reason = str(error).partition("\n")[0]
            print(f"MLflow refuses an entry of run {entry['run']} ({reason}); it was moved to {refused}", flush=True)
        file.mark_sent(end)
        count += 1
    return count


_senders: dict[Path, Sender] = {}
_lock = threading.Lock()


def append(buffer: str, entry: Entry) -> None:
    """Log an entry. It waits in the folder that `buffer_path` finds."""
    path = buffer_path(buffer)
    with _lock:
        if path not in _senders:
            _senders[path] = Sender(path)
        _senders[path].append(entry)


def is_down(buffer: str) -> bool:
    """Whether MLflow did not take what this process logged there last."""
    sender = _senders.get(buffer_path(buffer))
    return sender is not None and sender.down


def buffer_path(buffer: str) -> Path:
    """The folder of entries: an absolute path, or a name in the cache folder of this machine."""
    return cache_folder() / "mlflow" / buffer


def flush(seconds: float | None = None, announce: bool = True) -> bool:
    """Wait until MLflow has taken what this process logged, at most ``seconds`` (unset: `FLUSH_SECONDS`).

    If it has not by then, a line says how to send the rest, once; unless another process will do both.
    """
    deadline = time.monotonic() + (FLUSH_SECONDS if seconds is None else seconds)
    sent = True
    for path, sender in list(_senders.items()):
        if sender.wait(max(0.1, deadline - time.monotonic())):
            with _lock:
                if sender.requested == sender.done:
                    _senders.pop(path, sender).close()
        else:
            sent = False
            if announce and not sender.announced:
                print(
                    f"MLflow is down: what it has not taken is in {path} on {socket.gethostname()}; when it is back, "
                    f"send that with: fer mlflow sync {path}",
                    flush=True,
                )
                sender.announced = True
    return sent


def sync(folder: Path) -> int:
    """Send what ended processes have left in ``folder`` and below; returns the number of requests that it took.

    Raises UserError if MLflow is down, or if the process that wrote a file still runs.
    """
    count = 0
    for path in sorted(folder.rglob(f"{PREFIX}*{SUFFIX}"), key=lambda path: path.name):
        file = EntryFile.claim(path)
        if file is None:
            if path.exists():
                raise UserError(f"{path}: the process that writes this file still runs, and sends it itself")
            continue
        try:
            count += send_file(file)
        except Exception as error:
            raise UserError(f"{_is_down(error)}; nothing is lost: try again when it is back") from error
        finally:
            file.close()
    return count
