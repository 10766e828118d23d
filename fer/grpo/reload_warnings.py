"""vLLM's warnings "Failed to load weights" after a weight update, without those about layers that were to get none."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

LOGGER = "vllm.model_executor.model_loader.reload.layerwise"
MESSAGE = "Failed to load weights"


@contextmanager
def without_expected_warnings(model: nn.Module, whole: bool) -> Iterator[None]:
    """Leave out the warnings about layers without parameters, which hold computed tables.

    If the update is not ``whole`` (only adapters are sent), also those about layers that have no adapters.
    """
    layers = list(model.modules())
    with_parameters = {type(layer).__name__ for layer in layers if list(layer.parameters(recurse=False))}

    def is_unexpected(record: logging.LogRecord) -> bool:
        if MESSAGE not in str(record.msg):
            return True
        return whole and isinstance(record.args, tuple) and record.args[0] in with_parameters

    logger = logging.getLogger(LOGGER)
    logger.addFilter(is_unexpected)
    try:
        yield
    finally:
        logger.removeFilter(is_unexpected)
