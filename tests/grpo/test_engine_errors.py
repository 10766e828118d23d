"""Which of several errors is shown when a weight transfer fails."""

from __future__ import annotations

from typing import Any

import pytest
from ray.exceptions import RayTaskError

from fer.grpo import engine_errors
from fer.grpo.communicator import WAS_ABORTED, TransferError
from fer.grpo.engine_errors import find_cause


def in_engine(cause: Exception) -> Exception:
    return RayTaskError("update_weights", "a traceback", cause).as_instanceof_cause()


@pytest.fixture(autouse=True)
def results(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls are their own results here; errors are raised."""

    def get(ref: Any) -> Any:
        if isinstance(ref, Exception):
            raise ref
        return ref

    monkeypatch.setattr(engine_errors.ray, "get", get)


def test_an_engine_s_own_error_says_more_than_an_abort() -> None:
    aborted = TransferError(WAS_ABORTED)
    calls = ["done", in_engine(RuntimeError(WAS_ABORTED)), in_engine(RuntimeError("Traceback\n  ...\nOut of memory\n"))]
    assert find_cause(aborted, calls) == "Out of memory"
    assert find_cause(aborted, calls[:2]) == WAS_ABORTED
    assert find_cause(RuntimeError("The actor died.\nThe cause: ..."), []) == "The actor died."


def test_errors_without_a_text_are_named() -> None:
    assert find_cause(TransferError(WAS_ABORTED), [in_engine(NotImplementedError())]) == "NotImplementedError()"
    assert find_cause(RuntimeError(), []) == "RuntimeError()"
