"""The dynamics model: components, model folder, predictor, and losses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fer.dynamics.frames import read_frames
from fer.dynamics.losses import build_score_loss
from fer.dynamics.model import DynamicsModel, load_model
from fer.dynamics.options import STAGES, DynamicsConfig
from fer.dynamics.predictor import DynamicsPredictor, to_levels
from fer.errors import UserError


def inputs(rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.rand(rows, 3, 112, 112), torch.rand(rows, 146, 2) * 112, torch.rand(rows, 146, 2) * 112


def test_an_untrained_fusion_is_the_mean_of_the_two_branches(dynamics_model: Path) -> None:
    model, _ = load_model(dynamics_model)
    with torch.inference_mode():
        flow, landmarks, both = (model(*inputs(4), branch=branch) for branch in ("flow", "landmarks", "fusion"))
    torch.testing.assert_close(both, (flow + landmarks) / 2)
    assert not torch.allclose(flow, landmarks)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_trains_its_components_only(dynamics_model: Path, stage) -> None:  # type: ignore[no-untyped-def]
    model, _ = load_model(dynamics_model)
    config = DynamicsConfig(data="-").stage(stage)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for name in config.train:
        model.component(name).requires_grad_(True)
    model(*inputs(2), branch=config.branch).sum().backward()
    for name in ("flow", "blendshapes", "mlp", "fusion"):
        trained = {parameter.grad is not None for parameter in model.component(name).parameters()}
        assert trained == {name in config.train}


def test_scores_are_within_their_ranges(dynamics_model: Path, sequences: Path) -> None:
    frames, _ = read_frames(str(sequences))
    predictor = DynamicsPredictor(dynamics_model, "cpu", batch_size=7)
    scores = predictor.predict(frames)
    assert scores.shape == (40, 2)
    assert (scores >= 0).all()
    assert (scores <= [5, 3]).all()
    first = DynamicsPredictor(dynamics_model, "cpu").predict(frames[:3])
    torch.testing.assert_close(torch.from_numpy(first), torch.from_numpy(scores[:3]))
    assert predictor.predict([]).shape == (0, 2)


def test_halves_are_rounded_up() -> None:
    assert to_levels(torch.tensor([0.5, 1.5, 2.5, 2.49]).numpy()).tolist() == [1, 2, 3, 2]


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no model\.json"):
        load_model(tmp_path)
    (tmp_path / "model.json").write_text('{"labels": []}')
    with pytest.raises(UserError, match=r"is not a DynamicsSpec"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["mse", "ordinal"])
def test_minimising_a_loss_recovers_the_levels(name) -> None:  # type: ignore[no-untyped-def]
    true = torch.tensor([[float(n % 6), float(n % 4)] for n in range(12)])
    scores = torch.full_like(true, 1.5).requires_grad_(True)
    optimizer = torch.optim.Adam([scores], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        build_score_loss(name)(scores, true).backward()
        optimizer.step()
    assert torch.equal(scores.detach().clamp(min=torch.zeros(2), max=torch.tensor([5.0, 3.0])).round(), true)


def test_the_ordinal_loss_grows_with_the_distance() -> None:
    loss, true = build_score_loss("ordinal"), torch.tensor([[1.0, 1.0]])
    losses = [float(loss(torch.tensor([[score, 1.0]]), true)) for score in (1.0, 2.0, 3.0, 4.0)]
    assert losses == sorted(losses)


def test_an_unknown_backbone_is_a_user_error() -> None:
    with pytest.raises(UserError, match="timm has no model"):
        DynamicsModel(DynamicsConfig(data="-", backbone="resnet-of-my-dreams"))
