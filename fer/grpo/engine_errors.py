"""Errors of rollout engines, as a trainer sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from fer.grpo.communicator import WAS_ABORTED

ENGINE_ERRORS = (RayActorError, GetTimeoutError, RuntimeError)
"""Raised when an engine is dead or stuck, or failed itself."""


def raise_failure(refs: Sequence[Any]) -> None:
    """Raise the error of a call that has failed, if there is one."""
    failed, _ = ray.wait(list(refs), num_returns=len(refs), timeout=0)
    ray.get(failed)


def find_cause(error: Exception, finished: Sequence[Any]) -> str:
    """What has failed, as a line: ``error``, or that of a ``finished`` call which says more than "aborted"."""
    errors = [error, *filter(None, map(_error_of, finished))]
    return next((line for line in map(as_line, errors) if WAS_ABORTED not in line), as_line(error))


def _error_of(ref: Any) -> Exception | None:
    try:
        ray.get(ref)
    except Exception as error:
        return error
    return None


def as_line(error: Exception) -> str:
    """Of an error in an engine, the last line of what was raised there; of others the first."""
    cause, place = (error.cause, -1) if isinstance(error, RayTaskError) else (error, 0)
    return (str(cause).strip().splitlines() or [repr(cause)])[place]
