"""Sharpness-aware minimisation by hand, with accumulated batches, BatchNorm, and two workers."""

from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fer.classifier.sam import SAM

RHO = 0.5
ROWS = torch.tensor([[1.0, 2.0], [-1.0, 0.5], [0.3, 1.5], [2.0, -1.0]])
TRUE = torch.tensor([1.0, -1.0, 0.5, 2.0])


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, -1.0]))

    def forward(self, rows: Tensor) -> Tensor:
        return rows @ self.weight


def forward_backward(model: nn.Module, rows: slice, accumulated: int) -> Tensor:
    loss = (model(ROWS[rows]) - TRUE[rows]).square().mean()
    (loss / accumulated).backward()
    return loss


def gradient_at(weight: Tensor) -> Tensor:
    """Of the mean squared error of all rows, by hand."""
    return 2 * ROWS.T @ (ROWS @ weight - TRUE) / len(ROWS)


def expected_gradient() -> Tensor:
    weight = Line().weight.detach()
    gradient = gradient_at(weight)
    return gradient_at(weight + RHO * gradient / gradient.norm())


def test_the_gradient_of_a_bowl_by_hand() -> None:
    """Of (x^2 + y^2) / 2 at (3, 4): the gradient has length 5, so the neighbour is (3.3, 4.4)."""
    model = Line()
    model.weight.data = torch.tensor([3.0, 4.0])

    def once() -> Tensor:
        loss = model.weight.square().sum() / 2
        loss.backward()
        return loss

    once()
    SAM(model, RHO).repeat([once])
    assert model.weight.grad is not None
    torch.testing.assert_close(model.weight.grad, torch.tensor([3.3, 4.4]))
    assert model.weight.tolist() == [3.0, 4.0]


@pytest.mark.parametrize("batches", [1, 2, 4])
def test_accumulated_batches_have_the_neighbour_of_the_whole_step(batches: int) -> None:
    model, size = Line(), 4 // batches
    passes = [
        partial(forward_backward, model, slice(start, start + size), batches) for start in range(0, len(ROWS), size)
    ]
    for each in passes:
        each()
    SAM(model, RHO).repeat(passes)
    assert model.weight.grad is not None
    torch.testing.assert_close(model.weight.grad, expected_gradient())


def test_without_a_radius_or_a_finite_gradient_nothing_is_repeated() -> None:
    model = Line()
    for rho, gradient in ((0.0, [1.0, 2.0]), (RHO, [float("inf"), 1.0])):
        model.weight.grad = torch.tensor(gradient)
        SAM(model, rho).repeat([partial(pytest.fail, "repeated")])
        assert model.weight.grad.tolist() == gradient


def test_the_statistics_of_batch_normalisation_are_those_of_the_first_passes() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))

    def once() -> Tensor:
        loss = model(ROWS).square().mean()
        loss.backward()
        return loss

    once()
    layer = model[1]
    assert isinstance(layer, nn.BatchNorm1d)
    assert layer.running_mean is not None
    before = layer.running_mean.clone()
    SAM(model, RHO).repeat([once])
    assert torch.equal(layer.running_mean, before)
    assert layer.momentum == 0.1


def run_worker(rank: int, store: str) -> None:
    """Two batches of one row on each of two workers; gradients are exchanged with the last."""
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
    model = DistributedDataParallel(Line())

    def first() -> Tensor:
        with model.no_sync():
            return forward_backward(model, slice(2 * rank, 2 * rank + 1), 2)

    passes = [first, partial(forward_backward, model, slice(2 * rank + 1, 2 * rank + 2), 2)]
    for each in passes:
        each()
    SAM(model.module, RHO).repeat(passes)
    torch.testing.assert_close(model.module.weight.grad, expected_gradient())
    assert model.module.weight.tolist() == [0.5, -1.0]
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_workers_with_accumulation_have_the_gradient_of_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(run_worker, (str(tmp_path / "store"),), nprocs=2)
