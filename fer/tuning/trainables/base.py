"""What a trial trains: the few things in which one training differs from another, as a campaign sees them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from fer.tracking import Run
from fer.training.options import LaunchOptions

Settings = dict[str, Any]


class Training(Protocol):
    """One of the jobs that can be tuned. Stateless, so that it can be sent to trials."""

    job: str
    """The command: `fer train`, `fer dynamics`."""

    @property
    def config_class(self) -> type[LaunchOptions]: ...

    def open_data(self, config: Any) -> Settings:
        """Prepare the data once for all trials; the entries of the loop's settings that say where it lies."""

    def loop(
        self, config: Any, data: Settings, tracking: Run, folder: Path
    ) -> tuple[Callable[[Settings], None], Settings]:
        """The loop that the job runs on each worker, and its settings; the loop may leave files in ``folder``.

        Raises UserError for options that can't be.
        """

    def round(self, config: Any, figures: dict[str, Any]) -> int | None:
        """Which round, from 1, a report of the loop ends; None if it ends none."""

    def rounds(self, config: Any) -> int:
        """Rounds of a trial that is not stopped."""

    def rung(self, config: Any, figures: dict[str, Any]) -> int | None:
        """How far a trial is when it has made this report, for comparing it with others; None where it is not to be."""

    def rungs(self, config: Any) -> int:
        """How far a trial is at its end."""

    def score(self, figures: dict[str, Any]) -> float:
        """What the campaign maximises."""

    def network(self, config: Any, data: Settings) -> tuple[nn.Module, tuple[Tensor, ...]]:
        """The network of a trial, untrained, and an input of one row: to measure its size and latency."""
