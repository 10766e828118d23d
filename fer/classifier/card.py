"""The card of a model (Mitchell et al., Model Cards for Model Reporting, FAT* 2019): `README.md` of its folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fer.classifier.model import ModelSpec
from fer.models.card import USE

MEANINGS = {
    "accuracy": "share of right labels",
    "macro_f1": "mean F1 of the classes",
    "weighted_f1": "F1 of the classes, weighted by rows",
    "uar": "mean recall of the classes",
    "top2_accuracy": "right label among the two likeliest",
    "ece": "expected calibration error; 0 is best",
    "ccc": "concordance correlation coefficient, in [-1, 1]",
    "pearson": "correlation coefficient, in [-1, 1]",
    "rmse": "root mean square error; values are in [-1, 1]",
    "sign_agreement": "share with the right sign",
}
HEADS = {
    "classification": "names the apparent expression of a face",
    "valence-arousal": "estimates the apparent valence and arousal of a face, each in [-1, 1]",
    "both": "names the apparent expression of a face, and estimates its valence and arousal, each in [-1, 1]",
}
LIMITS = """\
## Limits

- It knows only the labels above, and always spreads its belief over them, even where none fits or there is no face.
- It learnt from annotators' labels, with their culture and their mistakes, and from pictures in which some ages,
  genders and skin tones are rare: expect differences between groups, and measure them on your own data with
  `fer evaluate`.
- Faces that are small, dark, covered or turned aside, and data unlike its training data, make it worse than the figures
  say. A high probability can be wrong.

More in Ferry's `docs/responsible-use.md`.
"""


def model_card(spec: ModelSpec, metrics: Mapping[str, Any] | None) -> str:
    """Markdown for the README.md of a model folder.

    ``metrics`` are those of a training epoch (`val_accuracy`: 0.66, ...) or an evaluation's metrics.json. A figure is a
    number, or a mapping of value, low and high (its 95% interval); groups of figures may be nested. Names that are not
    in `MEANINGS` are left out.
    """
    options = spec.options
    data = spec.training.get("data")
    run = spec.training.get("run")
    facts = {
        "backbone": f"`{options.backbone}` (timm)",
        "input": f"{options.img_size}x{options.img_size} pixels, {'grey' if options.in_chans == 1 else 'colour'}",
        "head": options.head + (f", {options.margin} margin" if options.margin != "none" else ""),
        "start": "timm's pretrained weights" if options.pretrained else "random weights",
        "label space": f"{spec.label_space}: {', '.join(spec.labels)}" if options.head != "valence-arousal" else None,
        "training data": f"`{data}`" if data else "not recorded",
        "run": f"`{run}`" if run else None,
    }
    known = [f"| {name} | {fact} |" for name, fact in facts.items() if fact]
    return "\n".join(
        [
            f"# {options.backbone}, {options.head}",
            "",
            f"An image model that {HEADS[options.head]}. Made with Ferry.",
            "",
            "| | |",
            "|---|---|",
            *known,
            "",
            "## Figures",
            "",
            *_figure_table(metrics or {}),
            "",
            USE,
            LIMITS,
        ]
    )


def _figure_table(metrics: Mapping[str, Any]) -> list[str]:
    rows = [f"| {name} | {value} | {interval} | {meaning} |" for name, value, interval, meaning in _figures(metrics)]
    if not rows:
        return ["None recorded: judge it with `fer evaluate` before you rely on it."]
    return [
        "Agreement with the labels of the data that it was judged on, not with what people felt.",
        "",
        "| figure | value | 95% interval | meaning |",
        "|---|---|---|---|",
        *rows,
    ]


def _figures(metrics: Mapping[str, Any], group: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Name, value, interval and meaning of each known figure, in nested groups too."""
    for key, figure in metrics.items():
        split, name = ("validation ", key.removeprefix("val_")) if key.startswith("val_") else ("", key)
        meaning = next((said for known, said in MEANINGS.items() if name in (known, *_of_affect(known))), None)
        title = f"{group}{split}{name}".replace("_", " ")
        if isinstance(figure, Mapping) and "value" not in figure:
            yield from _figures(figure, f"{group}{key} ")
        elif meaning and isinstance(figure, Mapping):
            interval = f"{figure['low']:.3f} to {figure['high']:.3f}" if "low" in figure else "not known"
            yield title, f"{figure['value']:.3f}", interval, meaning
        elif meaning and isinstance(figure, int | float):
            yield title, f"{figure:.3f}", "not known", meaning


def _of_affect(name: str) -> tuple[str, str]:
    return f"{name}_valence", f"{name}_arousal"
