"""Distillation: the teacher sees the student's images as its own input, and must know the same labels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fer.classifier.model import new_spec
from fer.classifier.options import ModelOptions, TrainConfig
from fer.classifier.predictor import Predictor
from fer.classifier.preprocess import normalize, to_input
from fer.classifier.spec import ModelSpec
from fer.classifier.teacher import Teacher, convert, locate_teachers
from fer.errors import UserError
from fer.labels import get_space

Make = Callable[..., Path]
CPU = torch.device("cpu")
FACE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)


def spec_of(space: str = "fer2013", **options: Any) -> ModelSpec:
    return new_spec(ModelOptions(**{"backbone": "test_resnet", "img_size": 32, **options}), get_space(space))


def images_for(spec: ModelSpec) -> torch.Tensor:
    return normalize(torch.from_numpy(to_input(FACE, spec)[None]), spec)


@pytest.mark.parametrize("student", [{}, {"in_chans": 1}])
def test_the_teacher_sees_the_image_of_the_student(student: dict[str, Any]) -> None:
    """In grey, every channel of the teacher is the grey image."""
    teacher = spec_of()
    found = convert(images_for(spec_of(**student)), spec_of(**student), teacher)
    grey = to_input(FACE, spec_of(in_chans=1)).repeat(3, axis=2)
    pixels = torch.from_numpy(grey if student else FACE)[None]
    torch.testing.assert_close(found, normalize(pixels, teacher), atol=1e-4, rtol=1e-4)


def test_a_grey_teacher_sees_grey_of_the_size_that_it_was_trained_on() -> None:
    student, teacher = spec_of(), spec_of(in_chans=1, img_size=16)
    found = convert(images_for(student), student, teacher)
    assert found.shape == (1, 1, 16, 16)
    error = (found - images_for(teacher)).abs() * teacher.std[0] * 255
    assert error.mean() < 15, "resized by another filter"
    same_size = convert(images_for(student), student, spec_of(in_chans=1))
    assert ((same_size - images_for(spec_of(in_chans=1))).abs() * teacher.std[0] * 255).max() < 1.1, "rounding"


def test_several_teachers_are_averaged_at_the_temperature(make_classifier: Make, tmp_path: Path) -> None:
    folders = [make_classifier(tmp_path / str(seed), seed=seed) for seed in (1, 2)]
    teacher = Teacher([str(folder) for folder in folders], spec_of(), 1.0, CPU, None)
    assert not teacher.models[0][0].training
    expected = Predictor(folders, "cpu").predict([FACE]).probabilities
    np.testing.assert_allclose(teacher(images_for(spec_of())), expected, atol=1e-4)
    soft = Teacher([str(folders[0])], spec_of(), 3.0, CPU, None)
    logits = soft.models[0][0](images_for(spec_of())).logits.detach()
    torch.testing.assert_close(soft(images_for(spec_of())), F.softmax(logits / 3, 1))


def test_a_teacher_with_other_labels_is_refused(make_classifier: Make, tmp_path: Path) -> None:
    folder = make_classifier(tmp_path / "teacher", space="rafdb")
    config = TrainConfig(data="d", teacher=[str(folder)], storage=str(tmp_path))
    assert locate_teachers(config, spec_of("rafdb")) == [str(folder)]
    with pytest.raises(UserError, match=r"can't teach angry, .*--label-space"):
        locate_teachers(config, spec_of())
    silent = make_classifier(tmp_path / "silent", head="valence-arousal")
    with pytest.raises(UserError, match="valence and arousal only"):
        locate_teachers(config.model_copy(update={"teacher": [str(silent)]}), spec_of())
