"""The card of a scorer (Mitchell et al., Model Cards for Model Reporting, FAT* 2019): `README.md` of its folder."""

from __future__ import annotations

from fer.dynamics.model import ScorerSpec
from fer.dynamics.scores import NOTICE, SCORES
from fer.models.card import render_card

USE = """\
## Intended use

Research on facial movement, with people who agreed to it: comparing recordings, following groups over time, testing
methods.

## Out of scope

- Diagnosis, the choice or the control of a treatment, and any decision about a person. This is not a medical device.
- Telling what somebody feels, thinks or intends, or who they are.

## Limits

- It learnt the scores of few annotators on few people, from one kind of camera and one set of movements; judge it on
  recordings like yours before you rely on it.
- It is not told which movement was asked for: a model knows the movements of its training data.
- Poor light, glasses, hair over the face, a turned head and landmarks that miss the face make it worse. Landmark models
  are less accurate on faces with palsy than on others.
"""


def model_card(spec: ScorerSpec) -> str:
    """Markdown for the README.md of a scorer's folder."""
    training = spec.training
    facts = {
        "flow net": f"`{spec.options.backbone}` (timm)",
        "landmark net": "two passes of MediaPipe's blendshape network, and an MLP",
        "scores by": {"flow": "the flow net", "landmarks": "the landmark net"}.get(spec.branch, "the fusion of both"),
        "last stage": training.get("stage"),
        "training data": f"`{training['data']}`" if "data" in training else None,
        "run": f"`{training['run']}`" if "run" in training else None,
    }
    metrics = [
        f"| {score} | {' | '.join(f'{values[name]:.3f}' for name in ('mse', 'kappa', 'icc', 'accuracy'))} |"
        for score, values in training.get("metrics", {}).items()
    ]
    header = ["| score | MSE | weighted kappa | ICC(2,1) | accuracy |", "|---|---|---|---|---|"]
    return render_card(
        "Facial dynamics and synkinesis",
        NOTICE,
        facts | {score: f"0 to {top}" for score, top in SCORES.items()},
        [*header, *metrics] if metrics else ["None recorded."],
        USE,
    )
