"""Rendered faces: landmarks, determinism, and how hard they are to classify."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fer.data.images import decode_rgb
from fer.data.synthetic import (
    LANDMARKS,
    NEUTRAL,
    PRESETS,
    Expression,
    Person,
    Pose,
    Scene,
    blend,
    random_face,
    render,
    vary,
    write_faces,
)
from fer.labels import SPACES

seeds = st.integers(0, 2**32 - 1)
labels = st.sampled_from(list(PRESETS))


def person(seed: int) -> Person:
    return Person.sample(np.random.default_rng(seed))


def test_labels_are_the_label_space_basic() -> None:
    assert tuple(PRESETS) == SPACES["basic"].labels


@given(labels)
def test_blend_interpolates_from_neutral(label: str) -> None:
    assert blend(PRESETS[label], 0.0) == NEUTRAL == PRESETS["neutral"]
    assert blend(PRESETS[label], 1.0) == PRESETS[label]
    half, whole = asdict(blend(PRESETS[label], 0.5)), asdict(PRESETS[label])
    assert half == {action: pytest.approx(value / 2) for action, value in whole.items()}


def test_strength_zero_renders_as_neutral() -> None:
    plain = render(person(3), size=96)
    for preset in PRESETS.values():
        np.testing.assert_array_equal(render(person(3), blend(preset, 0.0), size=96).image, plain.image)


@given(labels, seeds)
def test_actions_stay_in_their_range(label: str, seed: int) -> None:
    noisy = vary(PRESETS[label], np.random.default_rng(seed), amount=1.0)
    for action, value in asdict(noisy + PRESETS["fear"]).items():
        assert (-1 if action in ("lid_open", "mouth_corner") else 0) <= value <= 1


def test_expressions_add_up() -> None:
    """A smile during which an eye closes: co-movement."""
    both = PRESETS["happiness"] + Expression(lid_open=-0.8)
    assert (both.mouth_corner, both.lid_open) == (1.0, -0.8)


@settings(max_examples=40, deadline=None)
@given(seeds, labels)
def test_landmarks_are_inside_the_image(seed: int, label: str) -> None:
    face = random_face(person(seed), label, np.random.default_rng(seed), size=64)
    assert face.image.shape == (64, 64, 3)
    assert face.image.dtype == np.uint8
    assert {name: len(points) for name, points in face.landmarks.items()} == dict(LANDMARKS)
    for points in face.landmarks.values():
        assert points.dtype == np.float32
        assert points.min() > -0.5
        assert points.max() < 63.5


@settings(max_examples=20, deadline=None)
@given(seeds, labels, st.floats(-180, 180), st.floats(-25, 25))
def test_roll_rotates_the_landmarks(seed: int, label: str, roll: float, yaw: float) -> None:
    upright = Pose(yaw=yaw, shift_x=0.05, scale=0.9)
    rolled = replace(upright, roll=roll)
    angle, centre = np.radians(roll), upright.centre(100)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    before = render(person(seed), PRESETS[label], upright, size=100).landmarks
    after = render(person(seed), PRESETS[label], rolled, size=100).landmarks
    for name, points in before.items():
        np.testing.assert_allclose((points - centre) @ turn.T + centre, after[name], atol=1e-3)


@settings(max_examples=20, deadline=None)
@given(seeds, labels, st.floats(-25, 25), st.floats(-15, 15))
def test_left_mirrors_right(seed: int, label: str, yaw: float, pitch: float) -> None:
    """Faces are symmetric: one that looks left is the mirror image of one that looks right."""
    there = render(person(seed), PRESETS[label], Pose(yaw=yaw, pitch=pitch), size=80).landmarks
    back = render(person(seed), PRESETS[label], Pose(yaw=-yaw, pitch=pitch), size=80).landmarks
    for part in ("brow", "eye"):
        np.testing.assert_allclose(there[f"left_{part}"] * (-1, 1) + (79, 0), back[f"right_{part}"], atol=1e-3)


def test_size_only_scales() -> None:
    small, large = (render(person(5), PRESETS["fear"], size=size).landmarks for size in (64, 256))
    for name, points in small.items():
        np.testing.assert_allclose((points + 0.5) * 4 - 0.5, large[name], atol=1e-3)


@settings(max_examples=20, deadline=None)
@given(seeds, st.floats(-20, 20), st.floats(-10, 10), st.floats(-12, 12))
def test_landmarks_match_the_rendered_image(seed: int, yaw: float, pitch: float, roll: float) -> None:
    """The pupils are dark, the lower lip has the colour of lips, the cheek that of skin."""
    who = person(seed)
    face = render(who, PRESETS["surprise"], Pose(yaw, pitch, roll), size=256)
    grey = cv2.cvtColor(face.image, cv2.COLOR_RGB2GRAY)
    for side in ("left", "right"):
        x, y = np.round(face.landmarks[f"{side}_iris"][0]).astype(int)
        assert grey[y - 1 : y + 2, x - 1 : x + 2].max() < 40
    lips, gape = face.landmarks["lips_outer"], face.landmarks["lips_inner"]
    lower_lip = np.round((lips[15] + gape[15]) / 2).astype(int)
    np.testing.assert_allclose(face.image[lower_lip[1], lower_lip[0]], who.lips, atol=30)
    left_cheek = np.round((face.landmarks["left_eye"][8] + lips[10]) / 2).astype(int)
    np.testing.assert_allclose(face.image[left_cheek[1], left_cheek[0]], who.skin, atol=30)


def test_iris_stays_between_the_lids() -> None:
    closing = render(person(1), Expression(lid_open=-0.9), size=128).landmarks
    eye, iris = closing["left_eye"], closing["left_iris"]
    assert iris[:, 1].min() >= eye[:, 1].min() - 1e-3
    assert iris[:, 1].max() <= eye[:, 1].max() + 1e-3


def test_each_expression_moves_its_features() -> None:
    def drawn(label: str) -> dict[str, np.ndarray]:
        return render(Person(), PRESETS[label], size=200).landmarks

    rest = drawn("neutral")
    corner, lower_lip = 10, 15
    assert drawn("happiness")["lips_outer"][corner, 1] < rest["lips_outer"][corner, 1] - 3
    assert drawn("sadness")["lips_outer"][corner, 1] > rest["lips_outer"][corner, 1] + 3
    assert drawn("surprise")["lips_inner"][lower_lip, 1] > rest["lips_inner"][lower_lip, 1] + 10
    assert drawn("anger")["left_brow"][0, 1] > rest["left_brow"][0, 1] + 3
    assert drawn("surprise")["left_brow"][2, 1] < rest["left_brow"][2, 1] - 3
    assert drawn("fear")["lips_outer"][corner, 0] > rest["lips_outer"][corner, 0] + 3


def test_yaw_turns_to_the_right_pitch_up() -> None:
    """The tip of the nose protrudes, so it moves farther than the outline of the face."""
    tip = render(Person(), size=100).landmarks["nose"][2]
    assert render(Person(), pose=Pose(yaw=20), size=100).landmarks["nose"][2, 0] > tip[0] + 3
    assert render(Person(), pose=Pose(pitch=20), size=100).landmarks["nose"][2, 1] < tip[1] - 3


def test_the_same_seed_gives_the_same_data() -> None:
    one, same, other = (random_face(person(7), "fear", np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.image, same.image)
    assert not np.array_equal(one.image, other.image)


def test_noise_needs_a_generator() -> None:
    with pytest.raises(AssertionError, match="random generator"):
        render(Person(), scene=Scene(noise=5.0))


def test_write_faces_writes_a_folder_of_classes(tmp_path: Path) -> None:
    write_faces(tmp_path / "a", per_class=5, size=48, people=3)
    write_faces(tmp_path / "b", per_class=5, size=48, people=3)
    write_faces(tmp_path / "c", per_class=5, size=48, people=3, seed=1)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.png"))
    assert {path.parent.name for path in files} == set(SPACES["basic"].labels)
    assert len(files) == 35
    assert {path.name[:5] for path in files} == {"p0000", "p0001", "p0002"}
    for path in files:
        data = (tmp_path / "a" / path).read_bytes()
        assert decode_rgb(data).shape == (48, 48, 3)
        assert data == (tmp_path / "b" / path).read_bytes()
        assert data != (tmp_path / "c" / path).read_bytes()


@pytest.mark.slow
def test_a_linear_model_on_pixels_is_not_enough(tmp_path: Path) -> None:
    """100 images per class for training, other people for testing; chance is 14%."""

    def load(root: Path) -> tuple[np.ndarray, list[str]]:
        paths = sorted(root.rglob("*.png"))
        grey = [cv2.cvtColor(decode_rgb(path.read_bytes()), cv2.COLOR_RGB2GRAY) for path in paths]
        small = [cv2.resize(pixels, (32, 32), interpolation=cv2.INTER_AREA).ravel() for pixels in grey]
        return np.stack(small), [path.parent.name for path in paths]

    write_faces(tmp_path / "train", per_class=100, seed=0)
    write_faces(tmp_path / "test", per_class=40, seed=1)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300)).fit(*load(tmp_path / "train"))
    assert model.score(*load(tmp_path / "test")) < 0.6


@pytest.mark.slow
def test_a_linear_model_on_landmarks_separates_the_expressions() -> None:
    """The test people are not in the training data."""

    def draw(people: range) -> tuple[np.ndarray, list[str]]:
        shapes, names = [], []
        for number in people:
            rng = np.random.default_rng(number)
            for label in PRESETS:
                face = random_face(person(number), label, rng, size=48)
                points = np.concatenate(list(face.landmarks.values()))
                shapes.append(((points - points.mean(0)) / points.std()).ravel())
                names.append(label)
        return np.stack(shapes), names

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=300)).fit(*draw(range(100)))
    assert model.score(*draw(range(100, 140))) > 0.9
