"""WebSocket frames of the wrong kind and size, for the application `live`."""

from __future__ import annotations

import os
import socket
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def frame(kind: int, data: bytes = b"", *, last: bool = True, reserved: int = 0, length: int | None = None) -> bytes:
    """A frame of a client; ``length`` is what its header claims."""
    size = len(data) if length is None else length
    head = bytes([last << 7 | reserved << 4 | kind])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 2**16:
        head += b"\xfe" + struct.pack(">H", size)
    else:
        head += b"\xff" + struct.pack(">Q", size)
    return head + bytes(4) + data  # a mask of zeros changes nothing


def frames(photo: bytes) -> dict[str, bytes]:
    """What a connection sends after its handshake."""
    deflated = zlib.compressobj(wbits=-15)
    bomb = deflated.compress(bytes(60_000_000)) + deflated.flush(zlib.Z_SYNC_FLUSH)
    return {
        "text": frame(TEXT, b"hello"),
        "text that is not UTF-8": frame(TEXT, b"\xff\xfe"),
        "deeply nested text": frame(TEXT, b"[" * 100_000),
        "empty": frame(BINARY),
        "no image": frame(BINARY, b"no image"),
        "a byte too large": frame(BINARY, bytes(2**20 + 1)),
        "20 MB": frame(BINARY, bytes(20_000_000)),
        "claims 2**62 bytes": frame(BINARY, b"x", length=2**62),
        "claims 2**63 bytes": frame(BINARY, b"x", length=2**63),
        "cut short": frame(BINARY, photo[:100], length=len(photo)),
        "fragments": frame(BINARY, photo[:9], last=False) + frame(0, photo[9:]),
        "very many fragments": frame(BINARY, photo, last=False) + frame(0, b"x", last=False) * 50_000,
        "continuation without a start": frame(0, photo),
        "start within a message": frame(BINARY, photo, last=False) + frame(BINARY, photo),
        "not masked": bytes([0x80 | BINARY, 3]) + b"abc",
        "reserved kind": frame(3, b"x"),
        "reserved control kind": frame(11, b"x"),
        "reserved bits": frame(BINARY, photo, reserved=7),
        "compressed bomb": frame(BINARY, bomb, reserved=4),
        "fragmented ping": frame(PING, b"x", last=False),
        "long ping": frame(PING, bytes(200)),
        "very many pings": frame(PING, b"x") * 50_000,
        "unasked pongs": frame(PONG, b"x") * 1000,
        "close": frame(CLOSE, struct.pack(">H", 1000)),
        "close with a wrong code": frame(CLOSE, struct.pack(">H", 5)),
        "close of one byte": frame(CLOSE, b"x"),
        "close with a reason that is not UTF-8": frame(CLOSE, struct.pack(">H", 1000) + b"\xff"),
        "frames after the close": frame(CLOSE, struct.pack(">H", 1000)) + frame(BINARY, photo) * 3,
        "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "very many frames": frame(BINARY, photo) * 300,
    }


def origins() -> list[bytes]:
    """Values of the header Origin."""
    return [
        b"null",
        b"http://[",
        b"http://\xff",
        b"//",
        b"http://" + b"x" * 5000,
        b"https://example.org",
        b"\xc3\xa9",
        b"",
    ]


@contextmanager
def connection(
    address: tuple[str, int], limit: float, origin: bytes | None = None
) -> Iterator[tuple[socket.socket, bytes]]:
    """A connection to `/live/stream` after its handshake, and the response to that."""
    host = b"%s:%d" % (address[0].encode(), address[1])
    lines = [
        b"GET /live/stream HTTP/1.1", b"Host: " + host, b"Upgrade: websocket", b"Connection: Upgrade",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Extensions: permessage-deflate", *([] if origin is None else [b"Origin: " + origin]),
    ]  # fmt: skip
    with socket.create_connection(address, timeout=limit) as stream:
        stream.sendall(b"\r\n".join(lines) + b"\r\n\r\n")
        response = b""
        while b"\r\n\r\n" not in response and (got := stream.recv(4096)):
            response += got
        yield stream, response


def respond(address: tuple[str, int], data: bytes, limit: float) -> bytes:
    """What a connection receives first after ``data`` and a ping; b"" if it is closed.

    Raises TimeoutError if it receives nothing.
    """
    with connection(address, limit) as (stream, response):
        assert b" 101 " in response, response
        try:
            stream.sendall(data + frame(PING, os.urandom(4)))
            return stream.recv(65536)
        except (ConnectionError, BrokenPipeError):
            return b""
