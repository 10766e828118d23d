"""A few drawn sequences, a tiny scorer, and MediaPipe's files where they are there."""

from __future__ import annotations

from pathlib import Path

import pytest

TINY = {
    "backbone": "resnet18",
    "model_kwargs": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "stem_type": "deep", "stem_width": 4},
}


@pytest.fixture(scope="session")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten drawn videos of four frames each."""
    from fer.dynamics.sequences import write_sequences

    root = tmp_path_factory.mktemp("sequences")
    write_sequences(root, videos=10, frames=4)
    return root


@pytest.fixture(scope="session")
def scorer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny scorer with random weights."""
    import torch

    from fer.dynamics.model import DynamicsModel, ScorerSpec, save_model
    from fer.dynamics.options import ScorerOptions

    torch.manual_seed(0)
    options = ScorerOptions(**TINY)  # type: ignore[arg-type]
    folder = tmp_path_factory.mktemp("scorer") / "model"
    save_model(DynamicsModel(options).state_dict(), ScorerSpec(options=options), folder)
    return folder


@pytest.fixture(scope="session")
def bundle(shared_data: Path) -> Path:
    """MediaPipe's Face Landmarker bundle."""
    return shared_data / "models" / "face_landmarker_v2_with_blendshapes.task"


@pytest.fixture(scope="session")
def landmarker_bundle(bundle: Path) -> Path:
    """The same, where MediaPipe is installed too."""
    pytest.importorskip("mediapipe", reason="needs the extra `landmarks`")
    return bundle
