"""The model card of a dynamics model: `README.md` of its folder."""

from __future__ import annotations

from fer.dynamics.model import DynamicsSpec
from fer.dynamics.scores import DISCLAIMER, SCORES
from fer.models.card import render_card

INTENDED_USE = """\
## Intended use

Research on facial movement, with consenting people: comparing recordings, following groups over time, developing
methods.

## Out of scope

- Diagnosis, the choice or monitoring of a treatment, and any decision about a person. This is not a medical device.
- Inferring what somebody feels, thinks or intends, or who they are.
"""
LIMITATIONS = """\
## Limitations

- It was trained on the scores of few annotators for few people, recorded with one kind of camera and one set of
  movements; evaluate it on recordings like yours before you rely on it.
- Its input does not include the requested movement: a model only covers the movements in its training data.
- Poor light, glasses, hair over the face, a turned head and misplaced landmarks reduce its accuracy. Landmark detectors
  are less accurate on faces with palsy than on others.
"""


def model_card(spec: DynamicsSpec) -> str:
    """Markdown for the README.md of a model folder."""
    training = spec.training
    branches = {"flow": "the flow net", "landmarks": "the landmark net", "fusion": "the fusion of both"}
    facts = {
        "flow net": f"`{spec.options.backbone}` (timm)",
        "landmark net": "MediaPipe's blendshape network on frame and baseline, and an MLP",
        "output": branches[spec.branch],
        "last stage": training.get("stage"),
        "training data": f"`{training['data']}`" if "data" in training else None,
        "run": f"`{training['run']}`" if "run" in training else None,
        **{score: f"0 to {top}" for score, top in SCORES.items()},
    }
    rows = [
        f"| {score} | {' | '.join(f'{values[name]:.3f}' for name in ('mse', 'kappa', 'icc', 'accuracy'))} |"
        for score, values in training.get("metrics", {}).items()
    ]
    header = ["| score | MSE | weighted kappa | ICC(2,1) | accuracy |", "|---|---|---|---|---|"]
    metrics = [*header, *rows] if rows else ["None recorded."]
    return render_card("Facial dynamics and synkinesis", DISCLAIMER, facts, metrics, INTENDED_USE, LIMITATIONS)
