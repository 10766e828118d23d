"""Damaged images: real ones of every format, mutated, and bombs."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

SIDE = 96
SAVED: list[tuple[str, str, dict]] = [
    ("JPEG", "RGB", {}),
    ("JPEG", "L", {"progressive": True}),
    ("JPEG", "CMYK", {}),
    ("PNG", "RGB", {}),
    ("PNG", "P", {}),
    ("PNG", "LA", {}),
    ("PNG", "I;16", {}),
    ("WEBP", "RGB", {}),
    ("WEBP", "RGBA", {"lossless": True}),
    ("WEBP", "RGB", {"save_all": True}),
    ("GIF", "P", {"save_all": True}),
    ("BMP", "RGB", {}),
    ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    ("TIFF", "L", {"compression": "tiff_deflate"}),
    ("PPM", "RGB", {}),
    ("JPEG2000", "RGB", {}),
    ("AVIF", "RGB", {}),
]


def images() -> list[bytes]:
    """A photograph in every format; animated where the format can be, and some turned by EXIF."""
    from skimage import data

    photo = Image.fromarray(data.astronaut()).crop((140, 0, 320, 180)).resize((SIDE, SIDE))
    turned = Image.Exif()
    turned[0x0112] = 6
    encoded = []
    for name, mode, options in SAVED:
        frame = photo.convert("L").convert("I;16") if mode == "I;16" else photo.convert("RGB").convert(mode)
        more = {"append_images": [frame.rotate(90), frame.rotate(180)]} if "save_all" in options else {}
        exif = {"exif": turned} if name in ("JPEG", "PNG") else {}
        out = io.BytesIO()
        frame.save(out, name, **options, **more, **exif)
        encoded.append(out.getvalue())
    return encoded


def mutated(rng: np.random.Generator, sources: list[bytes], count: int) -> Iterator[bytes]:
    """Images with changed, missing, added or mixed bytes; half of the changes are in the headers."""
    for _ in range(count):
        source = sources[rng.integers(len(sources))]
        data = bytearray(source)
        for _ in range(int(rng.integers(1, 12))):
            place = int(rng.integers(min(len(data), 300) if rng.random() < 0.5 else len(data)))
            way = rng.integers(6)
            if way == 0:
                data[place] ^= 1 << int(rng.integers(8))
            elif way == 1:
                data[place] = int(rng.choice([0, 0x7F, 0x80, 0xFF]))
            elif way == 2:
                data[place : place + 4] = rng.bytes(4)
            elif way == 3:
                data[place:place] = rng.bytes(int(rng.integers(1, 40)))
            elif way == 4:
                data[place : place + int(rng.integers(1, 60))] = b""
            else:
                other = sources[rng.integers(len(sources))]
                data[place:] = other[place:]
            data = data or bytearray(source)
        yield bytes(data[: int(rng.integers(1, len(data)))] if rng.random() < 0.2 else data)


def bombs() -> list[bytes]:
    """Small files that claim, or have, very many pixels or bytes."""
    large = Image.new("L", (4999, 5000))
    white = io.BytesIO()
    large.save(white, "PNG", optimize=True)
    frames = io.BytesIO()
    Image.new("P", (1000, 1000)).save(
        frames, "GIF", save_all=True, append_images=[Image.new("P", (1000, 1000), colour % 2) for colour in range(200)]
    )
    tiff = io.BytesIO()
    large.save(tiff, "TIFF", compression="tiff_deflate")
    zipped = zlib.compress(bytes(200_000_000))
    return [
        white.getvalue(),
        frames.getvalue(),
        tiff.getvalue(),
        png(50_000, 50_000),
        png(2**31 - 1, 1),
        png(1, 25_000_000),
        png(0, 0),
        png(100, 100, [(b"zTXt", b"Comment\0\0" + zipped), (b"iCCP", b"icc\0\0" + zipped)]),
        png(100, 100, [(b"tEXt", b"a\0" + b"x" * 5_000_000)]),
        png(100, 100, [(b"acTL", struct.pack(">II", 2**31 - 1, 0))]),
        b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\xf7\0\0" + bytes(768) + b",\0\0\0\0\xff\xff\xff\xff\0\x0b;",
        b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03\x01\x22\0\x02\x11\x01\x03\x11\x01\xff\xd9",
        b"P6 5000 5000 255\n",
        b"P6 99999999999999999999 1 255\n",
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 2**31 - 1, -(2**31), 1, 24, 0, 0, 0, 0, 0, 0),
    ]


def png(width: int, height: int, chunks: list[tuple[bytes, bytes]] | None = None) -> bytes:
    """A grey PNG with this size in its header, these chunks, and at most a million pixels."""
    pixels = zlib.compress(bytes(min((width + 1) * height, 1_000_000)))
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), *(chunks or []), (b"IDAT", pixels)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in [*parts, (b"IEND", b"")]
    )
