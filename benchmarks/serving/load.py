"""The load: photographs, and two programs that send them."""

from __future__ import annotations

import csv
import re
import statistics
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

PHOTOS = 16
SIDE = 350
BOUNDARY = "ferry"
PERCENTILES = (50, 95, 99)

SCRIPT = """
local bodies = {{}}
for number = 0, {last} do
  local file = io.open(string.format("{folder}/%02d.form", number), "rb")
  bodies[number] = file:read("*a")
  file:close()
end
local sent = 0
function request()
  sent = sent + 1
  local headers = {{["Content-Type"] = "multipart/form-data; boundary={boundary}"}}
  return wrk.format("POST", nil, headers, bodies[sent % {count}])
end
function done(summary, latency)
  local refused = summary.errors.status
  io.write(string.format("RESULT %f %d\\n", (summary.requests - refused) / (summary.duration / 1e6),
    refused + summary.errors.timeout + summary.errors.connect + summary.errors.read))
end
"""


class Load(NamedTuple):
    """What a client has seen."""

    rate: float
    """Answers per second, without refusals."""
    failed: int
    latencies: dict[int, float]
    """Percentiles, in seconds; empty if not measured."""


def photographs(folder: Path) -> Path:
    """Write square JPEG crops of scikit-image's photographs, and each as the body of a form."""
    from skimage import data

    folder.mkdir()
    rng = np.random.default_rng(0)
    sources = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    for number in range(PHOTOS):
        source = sources[number % len(sources)]
        side = int(min(source.shape[:2]) * rng.uniform(0.6, 1))
        top, left = (int(rng.integers(0, size - side + 1)) for size in source.shape[:2])
        crop = Image.fromarray(source[top : top + side, left : left + side]).resize((SIDE, SIDE))
        file = folder / f"{number:02}.jpg"
        crop.save(file, quality=90)
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="face.jpg"\r\n'
        body = (
            head.encode() + b"Content-Type: image/jpeg\r\n\r\n" + file.read_bytes() + f"\r\n--{BOUNDARY}--\r\n".encode()
        )
        file.with_suffix(".form").write_bytes(body)
    (folder / "post.lua").write_text(SCRIPT.format(last=PHOTOS - 1, folder=folder, boundary=BOUNDARY, count=PHOTOS))
    return folder


def saturate(url: str, photos: Path, connections: int, seconds: int) -> Load:
    """As many requests as ``connections`` that wait for each answer can send."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", photos / "post.lua", url]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"RESULT ([\d.]+) (\d+)", output)
    assert found, output
    return Load(float(found[1]), int(found[2]), {})


def constant_rate(url: str, photos: Path, rate: float, seconds: int) -> Load:
    """``rate`` requests per second over 8 connections."""
    command = [
        "hey", "-c", "8", "-q", f"{rate / 8:.3f}", "-z", f"{seconds}s", "-m", "POST", "-o", "csv",
        "-T", f"multipart/form-data; boundary={BOUNDARY}", "-D", str(photos / "00.form"), url,
    ]  # fmt: skip
    rows = list(csv.DictReader(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()))
    times = sorted(float(row["response-time"]) for row in rows)
    cuts = statistics.quantiles(times, n=100)
    failed = sum(row["status-code"] != "200" for row in rows)
    return Load(len(rows) / seconds, failed, {percentile: cuts[percentile - 1] for percentile in PERCENTILES})
