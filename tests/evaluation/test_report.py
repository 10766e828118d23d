"""The report is self-contained, and escapes all text."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import cv2
import numpy as np

from fer.data.images import encode_png
from fer.evaluation.bootstrap import Estimate
from fer.evaluation.report import THUMBNAIL, Headline, Plot, Report, Table, Thumbnail, format_estimate, render_html

EVIL = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"
IMAGE = encode_png(np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8))


def make(text: str = "text", thumbnails: bool = True) -> str:
    return render_html(
        Report(
            title=text,
            summary=[text],
            headlines=[Headline(text, Estimate(value=0.661, low=0.645, high=0.6772), description=text)],
            tables=[Table(text, (text, text), [(text, text)], text)],
            plots=[Plot(text, IMAGE, text)],
            thumbnails=[Thumbnail(IMAGE, {"path": text})] if thumbnails else [],
            sections={text: {text: text}},
        )
    )


class Tags(HTMLParser):
    """Collects (tag, attributes) of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_loads_no_external_resources() -> None:
    page = make()
    for tag, attributes in Tags(page).found:
        assert tag not in ("script", "link", "iframe", "object", "base"), tag
        for name in ("src", "href", "srcset", "poster", "data"):
            assert (attributes.get(name) or "data:image/png;base64,").startswith("data:image/png;base64,")
    assert "url(" not in page
    assert "@import" not in page


def test_text_is_escaped() -> None:
    clean, attacked = Tags(make()).found, Tags(make(EVIL)).found
    assert [tag for tag, _ in clean] == [tag for tag, _ in attacked]
    assert not any(name.startswith("on") for _, attributes in attacked for name in attributes)


def test_thumbnails_are_small_and_encoded_again() -> None:
    data = re.findall(r"data:image/png;base64,([^\"]+)", make())
    plot, thumbnail = (base64.b64decode(each) for each in data)
    assert plot == IMAGE
    assert cv2.imdecode(np.frombuffer(thumbnail, np.uint8), cv2.IMREAD_COLOR).shape == (THUMBNAIL, 75, 3)
    assert len(re.findall("data:image", make(thumbnails=False))) == 1


def test_the_page_states_limitations_and_metrics() -> None:
    page = make()
    for text in ("not what the person feels", "Article 5(1)(f)", "applicants, employees", "66.1%", "(64.5 to 67.7)"):
        assert text in page


def test_estimates_as_text() -> None:
    estimate = Estimate(value=0.5, low=-0.25, high=1)
    assert format_estimate(estimate) == "50.0% (-25.0 to 100.0)"
    assert format_estimate(estimate, percent=False) == "0.500 (-0.250 to 1.000)"
    assert format_estimate(estimate, percent=False, interval=False) == "0.500"
    assert format_estimate(None) == "–"
