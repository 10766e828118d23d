"""Reading images a little ahead of whoever writes them, on a few threads and in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from fer.data.images import check_image, decode_rgb
from fer.errors import BadRow

READERS = 8
READ_AHEAD = 32
"""Images that are read before they are written: the most that memory holds besides one row group."""

Row = TypeVar("Row")


def prefetch(load: Callable[[Row], bytes | BadRow], rows: Iterable[Row]) -> Iterator[tuple[Row, bytes | BadRow]]:
    """Each row and what ``load`` makes of it, in order, at most READ_AHEAD of them loaded at a time."""
    waiting: deque[tuple[Row, Future[bytes | BadRow]]] = deque()
    with ThreadPoolExecutor(READERS) as pool:
        for row in rows:
            waiting.append((row, pool.submit(load, row)))
            if len(waiting) == READ_AHEAD:
                first, future = waiting.popleft()
                yield first, future.result()
        for row, future in waiting:
            yield row, future.result()


def read_verified(read: Callable[[], bytes]) -> bytes | BadRow:
    """An image, read and fully checked; or why it can't be used."""
    try:
        image = read()
        check_image(image)
        decode_rgb(image)  # training decodes with OpenCV, which reads fewer formats
    except BadRow as error:
        return error
    except FileNotFoundError:
        return BadRow("missing file")
    except OSError as error:
        return BadRow(f"can't be read: {error.strerror or type(error).__name__}")
    return image
