"""Rendered sequences, a tiny dynamics model, and MediaPipe's files where available."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from fer.dynamics.frames import FramePair


@pytest.fixture(scope="session")
def tiny_network() -> dict[str, Any]:
    """Options of a flow net that trains in seconds."""
    model_kwargs = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "stem_type": "deep", "stem_width": 4}
    return {"backbone": "resnet18", "model_kwargs": model_kwargs}


@pytest.fixture(scope="session")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten rendered videos of four frames each."""
    from fer.dynamics.synthetic import write_sequences

    root = tmp_path_factory.mktemp("sequences")
    write_sequences(root, videos=10, frames=4)
    return root


@pytest.fixture(scope="session")
def dynamics_model(tiny_network: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model with random weights."""
    import torch

    from fer.dynamics.model import DynamicsModel, DynamicsSpec, save_model
    from fer.dynamics.options import DynamicsModelOptions

    torch.manual_seed(0)
    options = DynamicsModelOptions(**tiny_network)
    folder = tmp_path_factory.mktemp("dynamics") / "model"
    save_model(DynamicsModel(options).state_dict(), DynamicsSpec(options=options), folder)
    return folder


@pytest.fixture(scope="session")
def bundle(shared_data: Path) -> Path:
    """MediaPipe's Face Landmarker bundle."""
    return shared_data / "models" / "face_landmarker_v2_with_blendshapes.task"


@pytest.fixture(scope="session")
def landmarker_bundle(bundle: Path) -> Path:
    """The bundle, where MediaPipe is installed too."""
    pytest.importorskip("mediapipe", reason="needs the extra `landmarks`")
    return bundle


@pytest.fixture(scope="session")
def talking_video(shared_data: Path) -> Path:
    """A video of one face."""
    return shared_data / "videos" / "single_face.mp4"


@pytest.fixture(scope="session")
def make_pairs() -> Callable[[list[int]], list[FramePair]]:
    """Makes frames without images: two expressions of each video, which has the given number of frames."""
    import numpy as np

    from fer.dynamics.frames import FramePair

    def make(lengths: list[int]) -> list[FramePair]:
        none = np.empty(0)
        return [
            FramePair(f"{expression}/{video}_{frame}", str(video), str(frame), b"", none, none, (frame % 6, frame % 4))
            for video, length in enumerate(lengths)
            for expression in ("smile", "eye_close")
            for frame in range(length)
        ]

    return make
