"""One self-contained HTML page of results: headline figures, plots, tables, mistakes, and where they come from."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import jinja2

from fer.data.images import decode_rgb, encode_png
from fer.evaluation.bootstrap import Figure

THUMBNAIL = 112

PURPOSE = (
    "These figures say how often a model gives a face the label that people gave it. A label names how a face appears, "
    "not what the person feels: the same expression can go with many inner states or none. Annotators disagree, and a "
    "model repeats what they and its training images did, including uneven coverage of age, gender, skin tone, culture "
    "and camera. Figures hold for images like these; expect worse elsewhere, and judge again on your own data before "
    "you rely on them. Intervals say how far a figure would move on other rows of the same kind, nothing more.",
    "Do not use this to watch people, or to judge applicants, employees, pupils or patients. In the European Union, "
    "inferring emotions at work and in education is prohibited, except for medical or safety reasons (EU AI Act, "
    "Regulation 2024/1689, Article 5(1)(f)); other uses that recognise emotions carry duties of transparency.",
)


@dataclass
class Headline:
    """One figure of the top row: shown in percent where it is a share."""

    name: str
    figure: Figure
    percent: bool = True
    meaning: str = ""


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
    """A picture with a few words on it."""

    image: bytes
    """Encoded, of any size."""
    facts: Mapping[str, str]
    passage: str = ""
    """A longer text, folded away until it is asked for."""


@dataclass
class Report:
    """What the page shows, from top to bottom."""

    title: str
    summary: Sequence[str]
    """Plain sentences: what was judged, and what was left out."""
    headlines: Sequence[Headline]
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()
    thumbnails: Sequence[Thumbnail] = ()
    thumbnails_title: str = "Worst mistakes"
    sections: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """Further facts as names and values, by heading: model, data, versions."""
    purpose: Sequence[str] = PURPOSE
    """Paragraphs on what the figures are, and what they are not."""


def render(report: Report) -> str:
    """The page as HTML that loads nothing: pictures are inside it, and it has no script. All text is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fer.evaluation", "."), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["data_uri"] = _data_uri
    environment.filters["thumbnail"] = _thumbnail
    made = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    return environment.get_template("report.html.j2").render(report=report, made=made, show=show)


def show(figure: Figure | None, percent: bool = True, interval: bool = True) -> str:
    """A figure as text: "66.1% (64.5 to 67.7)", "0.61 (0.58 to 0.64)", or a dash where there is none."""
    if figure is None:
        return "–"
    scale, digits, unit = (100, 1, "%") if percent else (1, 3, "")
    value = f"{figure.value * scale:.{digits}f}{unit}"
    return f"{value} ({figure.low * scale:.{digits}f} to {figure.high * scale:.{digits}f})" if interval else value


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _thumbnail(data: bytes) -> str:
    """The image as a small PNG. Encoded again, so that no metadata of the original gets into the page."""
    import cv2

    pixels = decode_rgb(data)
    scale = THUMBNAIL / max(pixels.shape[:2])
    size = [max(1, round(side * scale)) for side in pixels.shape[1::-1]]
    return _data_uri(
        encode_png(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC))
    )
