"""Reads rows' images ahead of their consumer, on a few threads and in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from fer.data.images import decode_untrusted
from fer.errors import BadRow

READERS = 8
READ_AHEAD = 32
"""Images that are loaded ahead: together with one row group, the most that memory holds."""

Row = TypeVar("Row")


def prefetch(load: Callable[[Row], bytes | BadRow], rows: Iterable[Row]) -> Iterator[tuple[Row, bytes | BadRow]]:
    """Each row with its ``load(row)``, in order; at most READ_AHEAD rows are loaded at a time."""
    pending: deque[tuple[Row, Future[bytes | BadRow]]] = deque()
    with ThreadPoolExecutor(READERS) as pool:
        for row in rows:
            pending.append((row, pool.submit(load, row)))
            if len(pending) == READ_AHEAD:
                first, future = pending.popleft()
                yield first, future.result()
        for row, future in pending:
            yield row, future.result()


def read_verified(read: Callable[[], bytes], verify: Callable[[bytes], object] = decode_untrusted) -> bytes | BadRow:
    """Read and verify an encoded image; a bad one is returned as the reason why it can't be used.

    By default it is decoded once. Whoever decodes it anyway passes `check_header`, and handles BadRow when decoding.
    """
    try:
        image = read()
        verify(image)
    except BadRow as error:
        return error
    except FileNotFoundError:
        return BadRow("missing file")
    except OSError as error:
        return BadRow(f"can't be read: {error.strerror or type(error).__name__}")
    return image
