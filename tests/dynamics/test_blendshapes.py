"""The blendshape network in PyTorch against MediaPipe's file in its own interpreter."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fer.data.synthetic.sequence import sample_sequence
from fer.dynamics.blendshapes import BlendshapeNet, load_blendshapes, standardize
from fer.dynamics.import_blendshapes import TFLITE_NAME, import_blendshapes
from fer.errors import UserError
from jobs.__main__ import main


@pytest.fixture
def imported(bundle: Path, tmp_path: Path) -> BlendshapeNet:
    pytest.importorskip("tflite", reason="needs the extra `landmarks`")
    assert main(["dynamics", "import-blendshapes", str(bundle), "--out", str(tmp_path / "weights.safetensors")]) == 0
    network = BlendshapeNet()
    network.load_state_dict(load_blendshapes(tmp_path / "weights.safetensors"))
    return network.eval()


def test_outputs_equal_the_interpreters(imported: BlendshapeNet, bundle: Path) -> None:
    interpreters = pytest.importorskip("ai_edge_litert.interpreter", reason="needs the package ai-edge-litert")
    with zipfile.ZipFile(bundle) as files:
        interpreter = interpreters.Interpreter(model_content=files.read(TFLITE_NAME))
    interpreter.allocate_tensors()
    input_index, output_index = (
        interpreter.get_input_details()[0]["index"],
        interpreter.get_output_details()[0]["index"],
    )
    rng = np.random.default_rng(0)
    faces = [
        moment.expression_landmarks
        for seed in range(20)
        for moment in sample_sequence("smile", 2, np.random.default_rng(seed))
    ]
    clouds = [rng.normal(300, 80, (146, 2)).astype(np.float32) for _ in range(20)]
    worst = 0.0
    for landmarks in [*faces, *clouds]:
        interpreter.set_tensor(input_index, landmarks[None])
        interpreter.invoke()
        with torch.inference_mode():
            ours = imported(torch.from_numpy(landmarks)[None]).numpy()
        worst = max(worst, float(np.abs(ours.ravel() - interpreter.get_tensor(output_index).ravel()).max()))
    print(f"largest difference {worst:.1e}")
    assert worst < 1e-3


def test_real_landmarks_give_mediapipes_own_blendshapes(
    imported: BlendshapeNet, landmarker_bundle: Path, talking_video: Path
) -> None:
    """The order of the 146 points, end to end: MediaPipe's blendshapes of a photograph, from its own landmarks."""
    import mediapipe
    from mediapipe.tasks.python import BaseOptions, vision

    from fer.data.landmarks import INDICES
    from fer.data.video import video_frames

    image = next(video_frames(talking_video)).image
    options = vision.FaceLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=str(landmarker_bundle)), output_face_blendshapes=True
    )
    with vision.FaceLandmarker.create_from_options(options) as task:
        found = task.detect(mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=image))
    theirs = np.array([category.score for category in found.face_blendshapes[0]])
    height, width = image.shape[:2]
    points = np.array([(point.x * width, point.y * height) for point in found.face_landmarks[0]], np.float32)[INDICES]
    with torch.inference_mode():
        ours = imported(torch.from_numpy(points)[None])[0].numpy()
    assert np.abs(ours - theirs).max() < 1e-3


def test_position_and_scale_of_a_face_do_not_matter() -> None:
    torch.manual_seed(0)
    network, face = BlendshapeNet().eval(), torch.rand(3, 146, 2) * 100
    with torch.inference_mode():
        torch.testing.assert_close(network(face * 7 + torch.tensor([50.0, -20.0])), network(face), atol=1e-4, rtol=0)
    assert standardize(face).mean().abs() < 1e-6
    assert standardize(face).norm(dim=2).mean(dim=1).tolist() == pytest.approx([0.5] * 3)


def test_all_parameters_get_gradients() -> None:
    network = BlendshapeNet()
    scores = network(torch.rand(2, 146, 2))
    assert scores.shape == (2, 52)
    scores.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert sum(parameter.numel() for parameter in network.parameters()) == 450_520  # times 2 bytes: the file's 0.9 MB


def test_other_files_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("tflite", reason="needs the extra `landmarks`")
    (tmp_path / "junk.tflite").write_bytes(b"\x1c\x00\x00\x00TFL3" + bytes(range(256)))
    (tmp_path / "text.tflite").write_bytes(b"no model")
    with zipfile.ZipFile(tmp_path / "empty.task", "w") as files:
        files.writestr("other.tflite", b"")
    for name, message in (
        ("junk.tflite", "is not MediaPipe's"),
        ("text.tflite", "is not"),
        ("empty.task", "contains no"),
        ("gone", "no file"),
    ):
        with pytest.raises(UserError, match=message):
            import_blendshapes(tmp_path / name, tmp_path / "out.safetensors")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_file({"points.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="is not a blendshape network"):
        load_blendshapes(tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="can't read"):
        load_blendshapes(tmp_path / "gone.safetensors")
