"""FixMatch: which unlabelled faces teach, what they add to the loss, and in which order they come."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from fer.classifier.model import Outputs, new_spec
from fer.classifier.objective import Inputs, Objective
from fer.classifier.options import TrainConfig
from fer.classifier.unlabelled import (
    CUTOUT,
    GREY,
    PseudoLabels,
    StrongAugment,
    TwoViews,
    UnlabelledLoader,
    pseudo_labels,
)
from fer.data.images import encode_png
from fer.data.manifest import ShardedDataset
from fer.data.prepare import open_unlabelled
from fer.data.stream.reader import ROW_SEED, read_window
from fer.errors import UserError
from fer.labels import SPACES


def config_of(**options: Any) -> TrainConfig:
    return TrainConfig(data="d", img_size=32, **{"unlabelled": "u", "ema": 0.9, "batch_size": 4, **options})


class Fixed(nn.Module):
    """Answers with these logits."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, images: Tensor) -> Outputs:
        return Outputs(self.logits, None)


def test_faces_that_the_average_is_sure_of_are_labelled() -> None:
    """Odds of 1 to 24 are a probability of 0.96, and those of 1 to 4 one of 0.8."""
    logits = torch.tensor([[0.0, 24.0], [1.0, 4.0], [4.0, 1.0]]).clamp_min(1).log()
    found = pseudo_labels(Fixed(logits), torch.zeros(3, 1, 2, 2), config_of(pseudo_threshold=0.95))  # type: ignore[arg-type]
    assert found.labels.tolist() == [1, 1, 0]
    assert found.sure.tolist() == [True, False, False]


def test_the_sure_faces_count_by_their_share_of_all() -> None:
    """Odds of 1 to 3 against the label: -log(1/4) of one of two faces; the other one counts nothing."""
    logits = torch.tensor([[3.0, 1.0], [1.0, 9.0]]).log()
    pseudo = PseudoLabels(torch.tensor([1, 0]), torch.tensor([True, False]))
    assert pseudo.loss(logits).item() == pytest.approx(np.log(4) / 2)


def test_the_loss_is_that_of_the_labelled_faces_plus_that_of_the_others() -> None:
    logits = torch.tensor([[3.0, 1.0], [3.0, 1.0], [1.0, 9.0]]).log()
    pseudo = PseudoLabels(torch.tensor([1, 0]), torch.tensor([True, False]))
    targets, images, affect = torch.tensor([[1.0, 0.0]]), torch.zeros(3, 1, 2, 2), torch.full((1, 2), float("nan"))
    inputs = Inputs(images, torch.tensor([0]), targets, affect, pseudo=pseudo)
    loss = Objective(config_of())(Outputs(logits, None), inputs)
    assert loss.item() == pytest.approx(-np.log(3 / 4) + np.log(4) / 2)


def test_the_views_of_a_face() -> None:
    """Weak: the face itself, since flip and shift are off here. Strong: changed, and a grey square in it."""
    face = np.random.default_rng(0).integers(0, 100, (32, 32, 3), np.uint8)
    table = pa.table({"image": [encode_png(face)] * 2, ROW_SEED: [1, 2]})
    config = config_of(hflip=0, shift=0)
    views = TwoViews(new_spec(config, SPACES["fer2013"]), config)(table)
    assert torch.equal(views["weak"][0], torch.from_numpy(face))
    one, other = views["strong"]
    assert not torch.equal(one, other)
    grey = (one == GREY).all(-1).sum().item()
    assert grey >= (CUTOUT * 16) ** 2, "in a corner, a quarter of the square is left"
    again = TwoViews(new_spec(config, SPACES["fer2013"]), config)(table)
    assert torch.equal(again["strong"], views["strong"])


def test_every_strong_change_is_one_that_pillow_can_make() -> None:
    face = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    augment = StrongAugment(config_of(), config_of())
    changed = [augment(face, seed) for seed in range(400)]
    assert {each.shape for each in changed} == {(32, 32, 3)}


def test_what_comes_next_depends_on_the_position_alone(small_shards: Path) -> None:
    dataset = ShardedDataset(str(small_shards))
    config = config_of(unlabelled_ratio=3)
    loader = UnlabelledLoader(
        dataset, config, new_spec(config, SPACES["fer2013"]), rank=1, world_size=2, pin_memory=False
    )

    def paths(epoch: int, consumed: list[tuple[int, int]], batches: int) -> list[str]:
        windows = loader.windows(epoch, consumed, batches)
        return [path for window in windows for path in read_window(window, ["path"])["path"].to_pylist()]

    rows = dataset.split("train").rows
    whole = paths(1, [(2, 0)], rows // 4)
    assert len(whole) == rows // 4 * 12, "more rows than there are: they come again"
    assert len(set(whole[: loader.rows])) == loader.rows
    assert paths(1, [(2, 8)], rows // 4 - 2) == whole[24:]
    assert paths(2, [(2, 0)], rows // 4) != whole
    assert list(islice(whole, 24)) != paths(1, [(4, 2), (2, 0)], 2), "other workers: another order"


def test_images_need_no_labels(tmp_path: Path) -> None:
    (tmp_path / "faces" / "deep").mkdir(parents=True)
    for name in ("1.png", "deep/2.png"):
        (tmp_path / "faces" / name).write_bytes(encode_png(np.full((24, 24, 3), 90, np.uint8)))
    (tmp_path / "faces" / "readme.txt").write_text("no image")
    dataset = open_unlabelled(str(tmp_path / "faces"), cache=str(tmp_path / "cache"))
    assert dataset.split("train").rows == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no images"):
        open_unlabelled(str(tmp_path / "empty"), cache=str(tmp_path / "cache"))


@pytest.mark.parametrize("options", [{"ema": 0}, {"r_drop": 1.0}, {"margin": "arcface"}, {"head": "both"}])
def test_what_does_not_fit_together_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="--unlabelled needs"):
        config_of(**options)
