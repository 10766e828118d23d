"""The page in a real browser, in real time, with a real server and a fake camera."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import httpx
import numpy as np
import pytest

from fer.data.synthetic import PRESETS, Person, render
from tests.fixtures.browser import CHROMIUM, SECONDS, SWAY, TIMEOUT_MS, WIDTH, Cable
from tests.serve_apps.conftest import YUNET
from tests.waiting import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: `apt-get install chromium`"),
    pytest.mark.skipif(
        not (Path(__file__).parents[3] / "serve_apps/page/dist/index.html").is_file(),
        reason="the page is not built: `make setup`",
    ),
]

AXE = Path(__file__).parents[3] / "node_modules" / "axe-core" / "axe.min.js"
FACE = (223, 120)
"""Where the middle of the face is in the portrait, in pixels."""


@pytest.fixture(scope="module")
def cable(start_live: Callable[..., str], server_options: dict[str, Any]) -> Iterator[Cable]:
    start_live()
    with Cable(server_options["port"]) as cable:
        yield cable
        cable.shutdown()


@pytest.fixture
def page(browser: Browser, cable: Cable, server_options: dict[str, Any]) -> Iterator[Page]:
    """The page, with the token, in a fresh context. Afterwards: nothing went elsewhere, and nothing went wrong."""
    cable.reconnect()
    context = browser.new_context(permissions=["camera"], viewport={"width": 1280, "height": 860}, base_url=cable.url)
    context.set_default_timeout(TIMEOUT_MS)
    context.add_init_script(f"sessionStorage.setItem('ferry-token', {server_options['token']!r})")
    page = context.new_page()
    requests, mistakes = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("websocket", lambda socket: requests.append(socket.url.replace("ws:", "http:")))
    page.on("pageerror", lambda error: mistakes.append(str(error)))
    page.goto("/")
    yield page
    context.close()
    assert [url for url in requests if not url.removeprefix("blob:").startswith(cable.url)] == []
    assert mistakes == []


@pytest.fixture
def on_device(page: Page) -> Page:
    """The page, after the model was loaded into the browser."""
    page.locator("#where input[value=device]:enabled").wait_for(state="attached")
    page.get_by_text("On this device", exact=True).click()
    page.locator("body[data-where=device]").wait_for()
    page.locator("#banner").wait_for(state="hidden")
    return page


def picture(pixels: np.ndarray, name: str = "portrait.png") -> Any:
    data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()
    return {"name": name, "mimeType": "image/png", "buffer": data}


def scores(page: Page) -> dict[str, float]:
    """The probabilities in the bars of the first face."""
    return page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('#faces > li:first-child .bars li')].map("
        "(bar) => [bar.firstChild.textContent, Number(bar.querySelector('i').style.getPropertyValue('--p'))]))"
    )


def box(page: Page) -> list[float]:
    """Left, top, width and height of the first box, as parts of the picture."""
    return page.evaluate(
        "['--x', '--y', '--w', '--h'].map("
        "(name) => parseFloat(document.querySelector('.face')?.style.getPropertyValue(name)) / 100)"
    )


def test_a_dropped_picture_is_read(page: Page, portrait: np.ndarray) -> None:
    drop = """([bytes]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "portrait.png", { type: "image/png" }));
        document.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
    }"""
    page.evaluate(drop, [list(picture(portrait)["buffer"])])
    page.locator(".face").wait_for()
    assert page.locator("#headline").inner_text().startswith("happy")
    assert page.locator(".face .tag").inner_text() == page.locator("#headline").inner_text()
    assert max(scores(page), key=scores(page).__getitem__) == "happy"
    left, top, width, height = box(page)
    assert (left + width / 2, top + height / 2) == pytest.approx((FACE[0] / 512, FACE[1] / 512), abs=0.03)
    assert "1 face: happy" in page.locator("#announce").inner_text()


def test_several_pictures_keys_compound_labels_and_the_session(page: Page, portrait: np.ndarray) -> None:
    dark = (portrait * 0.4).astype(np.uint8)
    page.locator("#files").set_input_files([picture(portrait, "a.png"), picture(dark, "b.png")])
    page.locator("#headline", has_text="happy").wait_for()
    page.keyboard.press("ArrowRight")
    page.locator("#thumbnails button:nth-child(2)[aria-current=true]").wait_for()
    page.locator(".face").wait_for()
    assert page.locator("#headline").inner_text().startswith("happy")
    page.keyboard.press("k")
    assert page.locator("#compound").is_checked()
    with page.expect_download() as download:
        page.keyboard.press("s")
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
    assert [row["source"] for row in rows] == ["a.png", "b.png"]
    assert {row["label"] for row in rows} == {"happy"}
    page.keyboard.press("?")
    assert page.locator("#about").is_visible()
    page.keyboard.press("Escape")
    theme = page.evaluate("document.documentElement.dataset.theme")
    page.keyboard.press("t")
    assert page.evaluate("document.documentElement.dataset.theme") != theme


def test_another_model_can_be_picked(page: Page, portrait: np.ndarray) -> None:
    page.locator("#files").set_input_files(picture(portrait))
    page.locator("#headline", has_text="happy").wait_for()
    assert "contempt" in scores(page)
    page.locator("#where input[value=device]:enabled").wait_for(state="attached")
    with page.expect_request("**/v1/predict?model=other"):
        page.locator("#models select").select_option("other")
    page.locator("#faces").filter(has_not_text="contempt").wait_for()
    assert sum(scores(page).values()) == pytest.approx(1, abs=0.01)
    assert "other" in page.locator("#models").get_attribute("title")
    page.locator("#where input[value=device]:disabled").wait_for(state="attached")
    with page.expect_websocket(lambda socket: socket.url.endswith("/live/stream?model=other")):
        page.get_by_role("button", name="Camera").click()
    page.locator("body.live .face").wait_for()
    with page.expect_websocket(lambda socket: socket.url.endswith("/live/stream?model=ferry-small")):
        page.locator("#models select").select_option("ferry-small")
    page.locator("#headline", has_text="happy").wait_for()
    page.locator("#where input[value=device]:enabled").wait_for(state="attached")


@pytest.mark.parametrize(("path", "text"), [("/docs", "/v1/predict"), ("/live/docs", "Faces in live video")])
def test_the_documentation_of_the_api_loads_nothing_from_elsewhere(page: Page, path: str, text: str) -> None:
    errors: list[str] = []  # such as what the content security policy forbids
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(path)
    page.get_by_text(text, exact=True).first.wait_for()
    page.get_by_text("/healthz", exact=True).first.click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    page.get_by_text("Response body").first.wait_for()
    assert errors == []


def test_boxes_follow_the_face_in_the_camera(page: Page) -> None:
    page.get_by_role("button", name="Camera").click()
    page.locator(".face").wait_for()
    centre = (WIDTH - 512) / 2 + FACE[0]
    ends = pytest.approx([1 - (centre + sway) / WIDTH for sway in (SWAY, -SWAY)], abs=0.03)  # it is shown like a mirror
    middles: list[float] = []

    def look() -> bool:
        left, _, width, _ = box(page)
        middles.append(left + width / 2)
        return len(middles) > 30 * SECONDS and [np.nanmin(middles), np.nanmax(middles)] == ends

    until(look)
    assert page.locator("#headline").inner_text().startswith("happy")
    page.locator("#rate", has_text="answers/s").wait_for()
    assert "happy" in page.locator("#strip").get_attribute("aria-label")
    page.keyboard.press("c")
    page.locator("#empty").wait_for()


def test_without_the_application_live_frames_are_single_requests(page: Page) -> None:
    page.route("**/live/healthz", lambda route: route.fulfill(status=404))
    with page.expect_request("**/v1/predict"):
        page.get_by_role("button", name="Camera").click()
    page.locator("body.live .face").wait_for()
    assert page.locator("#headline").inner_text().startswith("happy")


def test_a_lost_server_is_shown_and_waited_for(page: Page, cable: Cable, portrait: np.ndarray) -> None:
    page.get_by_role("button", name="Camera").click()
    page.locator(".face").wait_for()
    cable.cut()
    page.locator("#banner", has_text="the server does not answer").wait_for()
    page.evaluate("document.querySelector('.face')?.remove()")
    cable.reconnect()
    page.locator("#banner").wait_for(state="hidden")
    page.locator(".face").wait_for()
    cable.cut()
    page.locator("#files").set_input_files(picture(portrait))
    page.locator("#banner", has_text="the server does not answer").wait_for()
    cable.reconnect()
    page.locator("#headline", has_text="happy").wait_for()
    page.locator("#banner").wait_for(state="hidden")


def test_on_this_device_nothing_is_sent(on_device: Page, cable: Cable, portrait: np.ndarray) -> None:
    assert "stay on this device" in on_device.locator("#privacy").inner_text()
    cable.cut()
    face = portrait[40:220, 120:300]  # fits the oval if no detector is offered
    on_device.locator("#files").set_input_files(picture(face))
    on_device.locator("#headline", has_text="happy").wait_for()
    on_device.get_by_role("button", name="Camera").click()
    on_device.locator("body.live .face").wait_for()
    on_device.locator("#rate", has_text="answers/s").wait_for()
    assert on_device.locator("#banner").is_hidden()


@pytest.mark.skipif(not YUNET.is_file(), reason=f"no face detector at {YUNET}")
def test_the_device_answers_as_the_server(
    on_device: Page, cable: Cable, portrait: np.ndarray, server_options: dict[str, Any]
) -> None:
    small = cv2.resize(portrait, (0, 0), fx=0.37, fy=0.37, interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur((portrait * 0.5).astype(np.uint8), (0, 0), 4)
    tilted = cv2.warpAffine(portrait, cv2.getRotationMatrix2D((220, 120), 25, 1.0), (512, 512))
    large = cv2.resize(portrait, (2000, 2000), interpolation=cv2.INTER_LINEAR)
    crop = cv2.resize(portrait[60:190, 155:285], (48, 48), interpolation=cv2.INTER_AREA)
    headers = {"Authorization": f"Bearer {server_options['token']}"}
    for number, pixels in enumerate((portrait, small, blurred, tilted, large, crop)):
        sent = picture(pixels, f"{number}.png")
        answer = httpx.post(f"{cable.url}v1/predict", files={"files": sent["buffer"]}, headers=headers, timeout=120)
        (face,) = answer.json()["images"][0]["faces"]
        on_device.locator("#files").set_input_files(sent)
        on_device.locator(f"#picture[alt='{number}.png']").wait_for()
        on_device.locator(".face").wait_for()
        found = scores(on_device)
        assert max(abs(found[label] - face["scores"][label]) for label in found) < 0.02
        place = [face["box"][name] for name in "xywh"]
        sides = [pixels.shape[1], pixels.shape[0]] * 2
        assert np.allclose(np.multiply(box(on_device), sides), place, atol=0.01 * max(sides))


def test_labels_follow_the_expressions_in_a_video(page: Page, tmp_path: Path) -> None:
    write_video(tmp_path / "film.webm", ["neutral", "happiness", "surprise"])
    page.locator("#files").set_input_files(tmp_path / "film.webm")
    page.locator("body.live .face").wait_for()
    page.locator("#headline", has_text="surprise").wait_for()
    page.locator("#video").evaluate("(video) => video.ended || new Promise((end) => (video.onended = () => end()))")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save CSV").click()
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
    # One face. A machine that is too busy to answer for a while loses it, and gives it the next number.
    numbers = [int(row["face"]) for row in rows]
    assert numbers[0] == 1
    assert numbers == sorted(numbers)
    for number, label in enumerate(["neutral", "happy", "surprise"]):
        labels = {row["label"] for row in rows if 0.1 < float(row["seconds"]) - 3 * number < 2.9}
        assert labels == {label}


def write_video(file: Path, expressions: list[str]) -> None:
    """A rendered face, three seconds of each expression."""
    person = Person.sample(np.random.default_rng(2))  # one whom both face detectors find
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"VP80"), 10, (440, 360))
    for expression in expressions:
        face = cv2.cvtColor(render(person, PRESETS[expression], size=360).image, cv2.COLOR_RGB2BGR)
        for _ in range(30):
            writer.write(cv2.copyMakeBorder(face, 0, 0, 40, 40, cv2.BORDER_REPLICATE))
    writer.release()


@pytest.mark.skipif(not AXE.is_file(), reason=f"no {AXE.name}: `make setup`")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_barrier(page: Page, portrait: np.ndarray, scheme: Any) -> None:
    page.emulate_media(color_scheme=scheme)
    page.evaluate(AXE.read_text())
    page.locator("#files").set_input_files([picture(portrait, "a.png"), picture(portrait, "b.png")])
    page.locator(".face").wait_for()
    for name in ("", "Camera", "Limits and responsible use"):
        if name:
            page.get_by_role("button", name=name, exact=True).click()
        page.wait_for_timeout(1000)
        violations = page.evaluate("axe.run().then(({ violations }) => violations)")
        assert [(each["id"], each["nodes"][0]["html"]) for each in violations] == []


def test_the_token_is_asked_for(browser: Browser, cable: Cable, server_options: dict[str, Any]) -> None:
    cable.reconnect()
    context = browser.new_context(base_url=cable.url)
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    page.goto("/")
    page.locator("#token").fill("a wrong token, long enough")
    with page.expect_response(lambda response: response.status == 401):
        page.keyboard.press("Enter")
    page.locator("#token").fill(server_options["token"])  # it is asked for again
    page.keyboard.press("Enter")
    page.locator("#models option", has_text="ferry-small").wait_for(state="attached")
    assert page.evaluate("sessionStorage.getItem('ferry-token')") == server_options["token"]
    assert page.evaluate("Object.keys(localStorage).some((key) => key.includes('token'))") is False
    context.close()


def test_the_page_fits_a_phone_and_prefers_dark(browser: Browser, cable: Cable) -> None:
    cable.reconnect()
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme="dark", base_url=cable.url)
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    page.goto("/")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    context.close()
