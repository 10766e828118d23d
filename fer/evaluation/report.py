"""A self-contained HTML report: headline metrics, tables, plots, sample images, and the settings behind them."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import jinja2

from fer.data.images import decode_rgb, encode_png
from fer.evaluation.bootstrap import Estimate

THUMBNAIL = 112

LIMITATIONS = (
    "These metrics measure how often a model gives a face the label that annotators gave it. A label names how a face "
    "appears, not what the person feels: the same expression can go with many inner states or none. Annotators "
    "disagree, and a model repeats their choices and the gaps of its training images, including uneven coverage of "
    "age, gender, skin tone, culture and camera. The metrics hold for images like these; expect lower ones elsewhere, "
    "and evaluate on your own data before you rely on the model. An interval covers sampling error only: how far a "
    "metric would move on other rows of the same kind.",
    "Do not use this model to monitor people, or to assess applicants, employees, pupils or patients. In the European "
    "Union, inferring emotions at work and in education is prohibited, except for medical or safety reasons (EU AI "
    "Act, Regulation 2024/1689, Article 5(1)(f)); other uses that recognise emotions carry transparency obligations.",
)


@dataclass
class Headline:
    """A metric in the top row of the report, shown in percent where it is a fraction."""

    name: str
    estimate: Estimate
    percent: bool = True
    description: str = ""


@dataclass
class Plot:
    title: str
    png: bytes
    caption: str = ""


@dataclass
class Table:
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass
class Thumbnail:
    """An image with a caption."""

    image: bytes
    """Encoded, of any size."""
    caption: Mapping[str, str]
    """Names and values, one line each."""
    details: str = ""
    """A longer text, collapsed by default."""


@dataclass
class Report:
    """The content of the page, from top to bottom."""

    title: str
    summary: Sequence[str]
    """Sentences: what was evaluated, and what was left out."""
    headlines: Sequence[Headline]
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()
    thumbnails: Sequence[Thumbnail] = ()
    thumbnails_title: str = "Worst mistakes"
    sections: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """Further names and values, by heading: model, data, versions."""
    limitations: Sequence[str] = LIMITATIONS
    """Paragraphs on intended use and limitations."""


def render_html(report: Report) -> str:
    """The page as HTML without external resources or scripts; images are embedded, and all text is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fer.evaluation", "."), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["data_uri"] = _data_uri
    environment.filters["thumbnail"] = _thumbnail
    environment.filters["estimate"] = format_estimate
    created = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    return environment.get_template("report.html.j2").render(report=report, created=created)


def format_estimate(estimate: Estimate | None, percent: bool = True, interval: bool = True) -> str:
    """An estimate as text: "66.1% (64.5 to 67.7)", "0.610 (0.580 to 0.640)", or a dash for None."""
    if estimate is None:
        return "–"
    scale, digits, unit = (100, 1, "%") if percent else (1, 3, "")
    value = f"{estimate.value * scale:.{digits}f}{unit}"
    low, high = (f"{bound * scale:.{digits}f}" for bound in (estimate.low, estimate.high))
    return f"{value} ({low} to {high})" if interval else value


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _thumbnail(data: bytes) -> str:
    """The image as a small PNG data URI. Re-encoding drops the metadata of the original."""
    import cv2

    pixels = decode_rgb(data)
    scale = THUMBNAIL / max(pixels.shape[:2])
    size = [max(1, round(side * scale)) for side in pixels.shape[1::-1]]
    return _data_uri(
        encode_png(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC))
    )
