"""Warnings of vLLM: those at a weight update are shown, but for some that say nothing here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

LOAD_LOGGER = "vllm.model_executor.model_loader.reload.layerwise"
LOAD_MESSAGE = "Failed to load weights"
CACHE_LOGGER = "vllm.v1.engine.core"
CACHE_MESSAGE = "Resetting the encoder cache when requests are in progress"


def show_warnings() -> None:
    """Show vLLM's warnings from now on: an engine on CPUs starts without them, see `QUIET`."""
    logger = logging.getLogger("vllm")
    logger.setLevel(min(logger.level, logging.WARNING))
    for handler in logger.handlers:
        handler.setLevel(min(handler.level, logging.WARNING))


@contextmanager
def without_expected_warnings(model: nn.Module, whole: bool) -> Iterator[None]:
    """Leave out "Failed to load weights" about layers without parameters, which hold computed tables.

    If the update is not ``whole`` (only adapters are sent), also those about layers that have no adapters.
    """
    layers = list(model.modules())
    with_parameters = {type(layer).__name__ for layer in layers if list(layer.parameters(recurse=False))}

    def is_unexpected(record: logging.LogRecord) -> bool:
        if LOAD_MESSAGE not in str(record.msg):
            return True
        return whole and isinstance(record.args, tuple) and record.args[0] in with_parameters

    with _filtered(LOAD_LOGGER, is_unexpected):
        yield


@contextmanager
def without_cache_warning() -> Iterator[None]:
    """Leave out the warning that requests are in progress: they have been preempted, and encode their images again."""
    with _filtered(CACHE_LOGGER, lambda record: CACHE_MESSAGE not in str(record.msg)):
        yield


@contextmanager
def _filtered(name: str, keep: Callable[[logging.LogRecord], bool]) -> Iterator[None]:
    logger = logging.getLogger(name)
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
