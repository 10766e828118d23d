"""Rendered faces: synthetic data for the demo and the tests.

Simple drawings of random people with the seven expressions of the label space `basic`, and their exact landmarks. The
accuracy of a model on them shows that training works; it says nothing about real faces or emotions. The same seed gives
the same images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fer.data.images import encode_png
from fer.data.synthetic.expression import NEUTRAL, PRESETS, Expression, blend, vary
from fer.data.synthetic.geometry import LANDMARKS
from fer.data.synthetic.person import Person
from fer.data.synthetic.pose import Pose
from fer.data.synthetic.renderer import RenderedFace, Scene, render

__all__ = [
    "LANDMARKS",
    "NEUTRAL",
    "PRESETS",
    "Expression",
    "Person",
    "Pose",
    "RenderedFace",
    "Scene",
    "blend",
    "random_face",
    "render",
    "vary",
    "write_faces",
]

MIN_STRENGTH = 0.6
"""Strength of the weakest expressions in a data set."""


def random_face(person: Person, label: str, rng: np.random.Generator, size: int = 64) -> RenderedFace:
    """A person's face with the expression ``label`` of `PRESETS`, at a random strength, pose and scene."""
    expression = vary(blend(PRESETS[label], rng.uniform(MIN_STRENGTH, 1.0)), rng)
    return render(person, expression, Pose.sample(rng), Scene.sample(rng), size, rng)


def write_faces(root: Path, per_class: int, size: int = 64, seed: int = 0, people: int = 100) -> None:
    """Render a labelled data set as an image folder: ``root/LABEL/PERSON_NUMBER.png``.

    It has ``per_class`` images of each label of `PRESETS`, ``size`` pixels square. With enough images every person
    shows every expression. Another seed gives other people.
    """
    persons = [Person.sample(np.random.default_rng([seed, number])) for number in range(people)]
    for code, label in enumerate(PRESETS):
        folder = root / label
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            person = number % people
            rng = np.random.default_rng([seed, person, code, number])
            face = random_face(persons[person], label, rng, size)
            (folder / f"p{person:04}_{number:05}.png").write_bytes(encode_png(face.image))
