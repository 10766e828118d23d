"""The line about a failed worker."""

from __future__ import annotations

import pytest
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerHealthCheckFailedError

from fer.training.launch import FailureLine

TRACEBACK = "Traceback (most recent call last):"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UserExceptionWithTraceback(ValueError("no face\nat all"), TRACEBACK), "ValueError: no face"),
        (UserExceptionWithTraceback(AssertionError(), TRACEBACK), "AssertionError: "),
        (WorkerHealthCheckFailedError("health", RuntimeError("the node died\nits id: 1")), "the node died"),
    ],
)
def test_the_line_says_why(error: Exception, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    FailureLine(1, lambda: False).after_exception(None, {0: error})
    assert capsys.readouterr().out == f"worker 0 failed ({reason}); restart 1 of 1, from the latest checkpoint\n"
