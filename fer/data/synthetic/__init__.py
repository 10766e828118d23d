"""Rendered faces: a test pattern for the demo and the tests, and nothing to draw conclusions from.

Simple drawings of invented people in the seven expressions of the label space `basic`, with the exact landmarks that
were drawn. A model that reads them has learnt to read drawings: its accuracy says that the machinery works, and nothing
about faces, people or emotions. The same seed always gives the same pictures.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fer.data.images import encode_png
from fer.data.synthetic.expression import NEUTRAL, PRESETS, Expression, blend, vary
from fer.data.synthetic.geometry import LANDMARKS
from fer.data.synthetic.paint import Face, Scene, render
from fer.data.synthetic.person import Person
from fer.data.synthetic.pose import Pose

__all__ = [
    "LANDMARKS", "NEUTRAL", "PRESETS", "Expression", "Face", "Person", "Pose", "Scene",
    "blend", "random_face", "render", "vary", "write_faces",
]  # fmt: skip

WEAKEST = 0.6
"""Strength of the faintest expressions in a data set."""


def random_face(person: Person, label: str, rng: np.random.Generator, size: int = 64) -> Face:
    """A person's face with the expression ``label`` of `PRESETS`; its strength, pose and scene are random."""
    expression = vary(blend(PRESETS[label], rng.uniform(WEAKEST, 1.0)), rng)
    return render(person, expression, Pose.sample(rng), Scene.sample(rng), size, rng)


def write_faces(root: Path, per_class: int, size: int = 64, seed: int = 0, people: int = 100) -> None:
    """Render a labelled data set as a folder of classes: ``root/LABEL/PERSON_NUMBER.png``.

    ``per_class`` pictures of each label of `PRESETS`, ``size`` pixels square. Every person shows every expression, as
    far as ``per_class`` goes round; another seed gives other people.
    """
    crowd = [Person.sample(np.random.default_rng([seed, number])) for number in range(people)]
    for code, label in enumerate(PRESETS):
        folder = root / label
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            who = number % people
            rng = np.random.default_rng([seed, who, code, number])
            face = random_face(crowd[who], label, rng, size)
            (folder / f"p{who:04}_{number:05}.png").write_bytes(encode_png(face.image))
