"""The model card of a classifier: `README.md` of its model folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fer.classifier.spec import ModelSpec
from fer.models.card import INTENDED_USE, render_card

DESCRIPTIONS = {
    "accuracy": "fraction of correct labels",
    "macro_f1": "mean F1 of the classes",
    "weighted_f1": "F1 of the classes, weighted by rows",
    "uar": "mean recall of the classes",
    "top2_accuracy": "correct label among the two most probable",
    "ece": "expected calibration error; 0 is best",
    "ccc": "concordance correlation coefficient, in [-1, 1]",
    "pearson": "correlation coefficient, in [-1, 1]",
    "rmse": "root mean square error; values are in [-1, 1]",
    "sign_agreement": "fraction of estimates with the correct sign",
}
TASKS = {
    "classification": "classifies the apparent expression of a face",
    "valence-arousal": "estimates the apparent valence and arousal of a face, each in [-1, 1]",
    "both": "classifies the apparent expression of a face, and estimates its valence and arousal, each in [-1, 1]",
}
LIMITATIONS = """\
## Limitations

- It knows the labels above only, and always distributes its probability over them, even where none fits or there is no
  face.
- It was trained on annotators' labels, with their culture and their mistakes, and on images in which some ages, genders
  and skin tones are rare: expect differences between groups, and measure them on your own data with `fer evaluate`.
- On small, dark, occluded or averted faces, and on data unlike its training data, it is less accurate than the metrics
  say. A high probability can be wrong.

More in Ferry's `docs/responsible-use.md`.
"""


def model_card(spec: ModelSpec, metrics: Mapping[str, Any] | None) -> str:
    """Markdown for the README.md of a model folder.

    ``metrics`` are those of a training epoch (`val_accuracy`: 0.66, ...) or an evaluation's metrics.json. A metric is a
    number, or a mapping of value, low and high (its 95% interval); groups of metrics may be nested. Names that are not
    in `DESCRIPTIONS` are left out.
    """
    options = spec.options
    data, run = spec.training.get("data"), spec.training.get("run")
    facts = {
        "backbone": f"`{options.backbone}` (timm)",
        "input": f"{options.img_size}x{options.img_size} pixels, {'grey' if options.in_chans == 1 else 'colour'}",
        "head": options.head + (f", {options.margin} margin" if options.margin != "none" else ""),
        "initial weights": "timm's pretrained weights" if options.pretrained else "random",
        "faces": f"cut out by {spec.preprocessing}" if spec.preprocessing else None,
        "label space": f"{spec.label_space}: {', '.join(spec.labels)}" if options.head != "valence-arousal" else None,
        "training data": f"`{data}`" if data else "not recorded",
        "run": f"`{run}`" if run else None,
    }
    return render_card(
        f"{options.backbone}, {options.head}",
        f"An image model that {TASKS[options.head]}. Trained with Ferry.",
        facts,
        _metrics_table(metrics or {}),
        INTENDED_USE,
        LIMITATIONS,
    )


def _metrics_table(metrics: Mapping[str, Any]) -> list[str]:
    rows = [f"| {' | '.join(row)} |" for row in _metrics(metrics)]
    if not rows:
        return ["None recorded: evaluate the model with `fer evaluate` before you rely on it."]
    return [
        "Agreement with the labels of the evaluation data, not with what people felt.",
        "",
        "| metric | value | 95% interval | description |",
        "|---|---|---|---|",
        *rows,
    ]


def _metrics(metrics: Mapping[str, Any], group: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Name, value, interval and description of each known metric, nested groups included."""
    for key, metric in metrics.items():
        name = key.removeprefix("val_")
        description = DESCRIPTIONS.get(name.removesuffix("_valence").removesuffix("_arousal"))
        title = f"{group}{'validation ' if name != key else ''}{name}".replace("_", " ")
        if isinstance(metric, Mapping) and "value" not in metric:
            yield from _metrics(metric, f"{group}{key} ")
        elif description and isinstance(metric, Mapping):
            interval = f"{metric['low']:.3f} to {metric['high']:.3f}" if "low" in metric else "not known"
            yield title, f"{metric['value']:.3f}", interval, description
        elif description and isinstance(metric, int | float):
            yield title, f"{metric:.3f}", "not known", description
