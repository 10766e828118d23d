"""Requests that no client should send: bodies, headers and paths over HTTP, and bytes over a socket."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

JSON = {"Content-Type": "application/json"}
RAW = {"Content-Type": "image/jpeg"}


class Sent(NamedTuple):
    """A request for `httpx`."""

    method: str
    path: str
    arguments: dict[str, Any]


def requests(photo: bytes) -> Iterator[Sent]:
    """Bodies, headers and paths."""
    encoded = base64.b64encode(photo).decode()
    for body in json_bodies(encoded):
        for path in ("/v1/predict", "/analyze"):
            yield Sent("POST", path, {"content": body, "headers": JSON})
    for headers, body in forms(photo):
        for path in ("/v1/predict", "/analyze"):
            yield Sent("POST", path, {"content": body, "headers": headers})
    for headers in odd_headers():
        yield Sent("POST", "/v1/predict", {"content": photo, "headers": {**RAW, **headers}})
    for path in paths():
        for method in ("GET", "POST", "HEAD", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "A" * 100):
            yield Sent(method, path, {})


def json_bodies(image: str) -> list[bytes]:
    deep = 200_000
    values: list[Any] = [
        None, True, 0, -1, 1e308, "", "x", [], {}, [None], [1], [[image]], [{}], [""], ["="], ["====" * 1000],
        [image[:-7]], [image + "="], [image * 2], ["data:,x"], ["data:image/png;base64,"], ["data:;base64,\0"],
        ["\ud800"], ["\U0001f600"], ["ａＧＶｓｂＧ８="], ["file:///etc/passwd"], ["http://127.0.0.1/"], [image] * 17,
        ["A" * 4] * 100_000, ["A" * 12_000_000], {"0": image}, image,
    ]  # fmt: skip
    bodies = [json.dumps({field: value}).encode() for value in values for field in ("images", "img", "img_path")]
    bodies += [json.dumps({"img": value[0]}).encode() for value in values if isinstance(value, list) and value]
    return [
        *bodies, b"", b"\0", b"null", b"[]", b"{", b"}" * 1000, b"[" * deep, b'{"images":' * deep,
        b'{"images":' + b"[" * deep + b"]" * deep + b"}", b'{"images": 1' + b"0" * 1_000_000 + b"}",
        b'{"images": NaN}', b'{"images": ["\xff\xfe"]}', b'\xef\xbb\xbf{"images": []}',
        '{"images": []}'.encode("utf-16"),
        b'{"images": ["\\ud800"]}', b'{"images": ["\\udc00\\ud800"], "img": "\\ud800"}', b'{"\\ud800": 1}',
        b'{"images": ["a"], "images": 3}', b'{"images": [' + b'"",' * 500_000 + b'""]}', b" " * 1_000_000 + b"{}",
    ]  # fmt: skip


def forms(photo: bytes) -> Iterator[tuple[dict[str, str | bytes], bytes]]:
    def part(head: bytes, body: bytes = photo) -> bytes:
        return b"--x\r\n" + head + b"\r\n\r\n" + body + b"\r\n"

    named = b'Content-Disposition: form-data; name="files"; filename='
    parts = [
        part(named + name)
        for name in (
      b'"\xf0\x9f\x98\x80.jpg"', b'"\xff\xfe"', b'"../../etc/passwd"', b'""', b'"\0"',
            b'"' + b"n" * 100_000 + b'"',
            b'"a"; filename*=UTF-8\'\'%ff%00', b'"a"; filename*=nothing\'\'a', b'"unclosed', b'"a"; name="files"',
        )
    ]  # fmt: skip
    parts += [
        part(b""), part(b"Content-Disposition: form-data"), part(b'Content-Disposition: form-data; name=""'),
        part(b"nothing"), part(b"\xff: \xff"), part(b"X: " + b"y" * 1_000_000), part(named + b'"a"', b""),
        part(b'Content-Disposition: form-data; name="files"', photo), part(named + b'"a"') * 20, photo,
        part(b'Content-Disposition: form-data; name="\xff"', b"\xff\xfe"),
        b"".join(part(b"A: b", b"") for _ in range(5000)),
        b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"-" * 1_000_000,
    ]  # fmt: skip
    for body in parts:
        for end in (b"--x--\r\n", b"--x", b""):
            yield {"Content-Type": "multipart/form-data; boundary=x"}, body + end
    for content_type in (
        "multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=" + "b" * 5000,
        "multipart/form-data; boundary=x; charset=nothing", "multipart/form-data; boundary=x; charset=utf-7",
        "multipart/form-data; boundary=x; charset=undefined", "multipart/form-data; boundary=x; charset=punycode",
        'multipart/form-data; boundary="', "multipart/form-data; boundary=x; boundary=y", "multipart/form-data;;;",
        b"multipart/form-data; boundary=\xff", b"multipart/form-data; boundary=x; charset=\xff", "multipart/mixed",
    ):  # fmt: skip
        yield {"Content-Type": content_type}, parts[0] + b"--x--\r\n"


def odd_headers() -> Iterator[dict[str, str | bytes]]:
    names = (
        "X-Request-ID", "X-Client-ID", "Authorization", "X-Request-Timeout-Seconds", "X-Request-Disconnect-Disabled",
        "X-Forwarded-For", "Serve-Multiplexed-Model-Id", "X-Session-Id", "Traceparent", "Accept", "Accept-Encoding",
        "Cookie", "Origin", "Referer", "Range", "Content-Type", "Content-Encoding", "Expect", "Upgrade",
        "Host", "If-None-Match",
    )  # fmt: skip
    values: tuple[str | bytes, ...] = (
        "", "inf", "nan", "-1", "1e-9", "1e400", "?1", "Bearer", "Bearer " + "x" * 1000, "http://[", "x" * 6000,
        b"\xff\xfe", "é".encode(), b"\xc3", "image/" + "x" * 500, "100-continue", "gzip",
        "websocket",
        "bytes=0-99999999999", "00-" + "0" * 32 + "-" + "0" * 16 + "-00",
    )  # fmt: skip
    for name in names:
        for value in values:
            yield {name: value}
    yield {f"X-Header-{number}": "x" for number in range(80)}
    yield {f"X-Header-{number}": "x" for number in range(500)}
    yield {"X-Long": "x" * 10_000}
    yield {"X-Long": "x" * 200_000}


def paths() -> list[str]:
    return [
        "/", "//", "/%00", "/assets/%00", "/assets/", "/assets/..%2f..%2fetc%2fpasswd", "/assets/../../../etc/passwd",
        "/assets/" + "a" * 5000, "/assets/%ff%fe", "/assets/index.html/x", "/v1/model/%00/%00",
        "/v1/model/1/model.json", "/v1/model/" + "9" * 3000 + "/x", "/v1/model/..%2f..%2f/model.json", "/v1/model//",
        "/v1/predict/", "/v1/predict?" + "a=" * 3000,
        "/v1/predict?model=%ff", "/healthz/%0d%0aX: y", "/-/routes", "/-/healthz", "/live", "/live/stream", "/live/%00",
        "/docs", "/openapi.json?x", "/%F0%9F%98%80", "/" + "%2e/" * 1000, "/v1/predict;x", "/live/../v1/models",
    ]  # fmt: skip


Exchange = tuple[str, list[bytes], int]
"""A name, what a socket sends, piece by piece with a pause between, and the most answers that it may get."""

POST = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


def contradictions(photo: bytes) -> list[Exchange]:
    """Requests that end at different places for different readers, and what is no HTTP."""
    length = b"Content-Length: %d\r\n" % len(photo)
    whole = b"%x\r\n" % len(photo) + photo + b"\r\n0\r\n\r\n"
    hidden = b"GET /hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"
    get = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
    return [
        ("length and chunks", [POST + length + CHUNKED + b"\r\n" + whole + hidden], 1),
        ("length 4 and chunks", [POST + b"Content-Length: 4\r\n" + CHUNKED + b"\r\n0\r\n\r\n" + hidden], 1),
        ("two lengths", [POST + length + b"Content-Length: 0\r\n\r\n" + photo], 1),
        ("list of lengths", [POST + b"Content-Length: %d, 0\r\n\r\n" % len(photo) + photo], 1),
        *[
            (f"length {value!r}", [POST + b"Content-Length: " + value + b"\r\n\r\n" + photo], 1)
            for value in (b"-1", b"+5", b"0x10", b"1e3", b"", b"9" * 30, b"\xb2", b"5 5")
        ],
        *[
            (f"encoding {value!r}", [POST + b"Transfer-Encoding: " + value + b"\r\n\r\n" + whole + hidden], 1)
            for value in (
                b"xchunked", b"chunked, identity", b"identity", b"chunked, chunked", b"\x0bchunked", b"gzip, chunked"
            )
        ],
        ("space before the colon", [POST + b"Transfer-Encoding : chunked\r\n" + length + b"\r\n" + whole], 1),
        ("folded header", [POST + b"X: a\r\n b\r\n" + length + b"\r\n" + photo], 1),
        ("NUL in a header", [POST + b"X: a\0b\r\n" + length + b"\r\n" + photo], 1),
        ("line feeds only", [(POST + length + b"\r\n").replace(b"\r", b"") + photo], 1),
        ("negative chunk", [POST + CHUNKED + b"\r\n-1\r\n"], 1),
        ("huge chunk", [POST + CHUNKED + b"\r\nffffffffffffffffff\r\n"], 1),
        ("chunk that is too long", [POST + CHUNKED + b"\r\n5\r\nabcdefghij\r\n0\r\n\r\n"], 1),
        ("chunk extensions", [POST + CHUNKED + b"\r\n1;" + b"x" * 100_000 + b"\r\na\r\n0\r\n\r\n"], 1),
        ("many trailers", [POST + CHUNKED + b"\r\n0\r\n" + b"X: y\r\n" * 10_000 + b"\r\n"], 1),
        ("body of a GET", [get + b"Content-Length: %d\r\n\r\n" % len(hidden) + hidden], 1),
        ("fifty at once", [(get + b"\r\n") * 50], 50),
        ("no host", [b"GET /healthz HTTP/1.1\r\n\r\n"], 1),
        ("HTTP/1.0", [b"GET /healthz HTTP/1.0\r\n\r\n"], 1),
        ("HTTP/0.9", [b"GET /healthz\r\n"], 1),
        ("HTTP/3.7", [b"GET / HTTP/3.7\r\n\r\n"], 1),
        ("HTTP/2", [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0" + b"\xff" * 100], 1),
        ("absolute address", [b"GET http://example.org/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"], 1),
        ("CONNECT", [b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: localhost\r\n\r\n"], 1),
        ("TLS", [b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(500)], 1),
        ("noise", [bytes(range(256)) * 40], 1),
        ("waiting for 100", [POST + length + b"Expect: 100-continue\r\n\r\n"], 2),
    ]  # fmt: skip


def slow(photo: bytes) -> list[Exchange]:
    """Requests that take their time, and those that stop."""
    length = b"Content-Length: %d\r\n" % len(photo)
    form = POST.replace(b"image/jpeg", b"multipart/form-data; boundary=x") + length + b"\r\n--x\r\n"
    return [
        ("nothing", [b""], 1),
        ("slow headers", [b"POST /v1/predict HTTP/1.1\r\n", *[b"X: y\r\n"] * 40], 1),
        ("slow body", [POST + length + b"\r\n" + photo[:100], *[photo[100:101]] * 40], 1),
        ("slow chunks", [POST + CHUNKED + b"\r\n", *[b"1\r\nx\r\n"] * 40], 1),
        ("slow form", [form, *[b"X"] * 40], 1),
        ("headers that stop", [POST], 1),
        ("body that stops", [POST + length + b"\r\n" + photo[:1000]], 1),
        ("no body", [POST + length + b"\r\n"], 1),
    ]


def converse(address: tuple[str, int], pieces: Sequence[bytes], limit: float, half_close: bool) -> bytes:
    """Send the pieces a second apart, close our half, and read until the server closes or ``limit`` seconds pass.

    Raises TimeoutError if the connection is still open then and nothing was answered.
    """
    received, until = b"", time.monotonic() + limit
    with socket.create_connection(address, timeout=limit) as connection:
        try:
            for number, piece in enumerate(pieces):
                if number:
                    received += receive(connection, 1.0)
                connection.settimeout(limit)
                connection.sendall(piece)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            while time.monotonic() < until:
                connection.settimeout(max(until - time.monotonic(), 0.01))
                got = connection.recv(65536)
                if not got:
                    return received
                received += got
                until = min(until, time.monotonic() + 1)  # a connection that was answered may stay open
        except (ConnectionError, BrokenPipeError):
            return received
        except TimeoutError:
            pass
    if received:
        return received
    raise TimeoutError("neither answered nor closed")


def receive(connection: socket.socket, seconds: float) -> bytes:
    connection.settimeout(seconds)
    try:
        return connection.recv(65536)
    except TimeoutError:
        return b""
