"""The page of `fer serve` with a camera: answers per second, and their age when they are drawn.

    python -m benchmarks.page [--seconds 20] [--rounds 3] [--detector-model FILE]

A real Chromium shows the page; its camera is a portrait that sways, 640x480 at 30 frames a second. Frames go to the
server over the WebSocket, to the server as single requests, and to the model in the browser, in turns. The age of an
answer is the time from the moment when its frame was taken to the moment when its boxes are on the page. Server and
browser share the machine. Needs Chromium and the built page (`make setup`).
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from pathlib import Path

import cv2
import numpy as np
from playwright.sync_api import Browser, sync_playwright

from cluster.ports import free_port
from jobs.serve import Config, running

WAYS = ("server, WebSocket", "server, requests", "this device")
CAMERA = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
COLLECT = """
    window.ages = [];
    new PerformanceObserver((list) => {
        for (const entry of list.getEntries()) ages.push(entry.duration);
    }).observe({ entryTypes: ["measure"] });
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=20, help="Length of a measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--detector-model", help="YuNet's file; without it, the server uses OpenCV's cascade")
    options = parser.parse_args()

    found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    config = Config(apps=["classifier", "live"], port=free_port(), detector_model=options.detector_model)
    with tempfile.TemporaryDirectory() as scratch, running(config) as url, sync_playwright() as playwright:
        write_camera(video := Path(scratch) / "camera.y4m")
        arguments = ["--no-sandbox", *CAMERA, f"--use-file-for-fake-video-capture={video}"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        for _ in range(options.rounds):
            for way in WAYS:
                found[way].append(measure(browser, url, way, options.seconds))
        browser.close()
    for way, rounds in found.items():
        rate = statistics.median(len(ages) / options.seconds for ages in rounds)
        median, slow = (statistics.median(np.percentile(ages, part) for ages in rounds) for part in (50, 95))
        print(f"{way:<18} {rate:5.1f} answers/s, age p50 {median:4.0f} ms, p95 {slow:4.0f} ms")


def measure(browser: Browser, url: str, way: str, seconds: int) -> list[float]:
    """The age of each answer, in milliseconds."""
    context = browser.new_context(permissions=["camera"], viewport={"width": 1280, "height": 860})
    page = context.new_page()
    if way == "server, requests":
        page.route("**/live/healthz", lambda route: route.fulfill(status=404))
    page.goto(url)
    if way == "this device":
        page.locator("#where input[value=device]:enabled").wait_for(state="attached")
        page.get_by_text("On this device", exact=True).click()
    page.get_by_role("button", name="Camera").click()
    page.locator(".face").wait_for()
    page.wait_for_timeout(3000)
    page.evaluate(COLLECT)
    page.wait_for_timeout(1000 * seconds)
    ages = page.evaluate("ages")
    context.close()
    return ages


def write_camera(file: Path, width: int = 640, height: int = 480) -> None:
    """NASA's portrait of Eileen Collins (public domain), which sways, as an uncompressed video of four seconds."""
    import skimage.data

    portrait = skimage.data.astronaut()[:height]
    with file.open("wb") as out:
        out.write(f"YUV4MPEG2 W{width} H{height} F30:1 Ip A1:1 C420jpeg\n".encode())
        for turn in np.linspace(0, 2 * np.pi, 120, endpoint=False):
            frame = np.full((height, width, 3), 90, np.uint8)
            left = round((width - portrait.shape[1]) / 2 + 60 * np.sin(turn))
            frame[:, left : left + portrait.shape[1]] = portrait
            out.write(b"FRAME\n" + cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420).tobytes())


if __name__ == "__main__":
    main()
