"""The interface through which a sweep trains: where one tunable job differs from another."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from fer.tracking import Run
from fer.training.options import LaunchOptions

if TYPE_CHECKING:
    from torch import Tensor, nn
    from upath import UPath

Settings = dict[str, Any]
"""What a training loop takes; plain values."""


class Trainable(Protocol):
    """A job that can be tuned. Stateless, since it is sent to every trial."""

    job: str
    """The command: `train` for `fer train`, `dynamics` for `fer dynamics`."""

    @property
    def config_class(self) -> type[LaunchOptions]: ...

    def prepare_data(self, config: Any) -> Settings:
        """Prepare the data once for all trials; the entries of the loop's settings that locate it, and its ``hash``."""

    def train_loop(
        self, config: Any, data: Settings, tracking: Run, folder: UPath
    ) -> tuple[Callable[[Settings], None], Settings]:
        """The job's training loop and its settings. The loop may write files to ``folder``.

        Raises UserError for options that do not fit together.
        """

    def trial_epoch(self, config: Any, metrics: dict[str, Any]) -> int | None:
        """Which epoch of the trial, from 1, this report ends; None for a report within an epoch."""

    def max_epochs(self, config: Any) -> int:
        """Epochs of a trial that is not stopped."""

    def progress(self, config: Any, metrics: dict[str, Any]) -> int | None:
        """How far the trial is at this report, for ASHA; None where it is not to be compared with others."""

    def max_progress(self, config: Any) -> int:
        """The progress of a trial that is not stopped."""

    def score(self, metrics: dict[str, Any]) -> float:
        """What the sweep maximises."""

    def network(self, config: Any, data: Settings) -> tuple[nn.Module, tuple[Tensor, ...]]:
        """A trial's network, untrained, and an input of one row: to measure its size and latency."""
