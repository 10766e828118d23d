"""Ferry: facial expression recognition on Ray. This is its Python API; the library knows no job and no server.

    >>> from fer import load_model
    >>> model = load_model("runs/first")
    >>> [row] = model.predict("face.jpg")
    >>> row.label, row.confidence
    ('happiness', 0.93)

Names are imported when they are first used: `import fer` imports neither torch nor Ray.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fer.classifier.api import ExpressionClassifier, load_model
    from fer.classifier.predict.rows import PredictionList, PredictionRow
    from fer.errors import UserError

__version__ = "0.1.0"
__all__ = ["ExpressionClassifier", "PredictionList", "PredictionRow", "UserError", "__version__", "load_model"]

_MODULES = {
    "ExpressionClassifier": "fer.classifier.api",
    "PredictionList": "fer.classifier.predict.rows",
    "PredictionRow": "fer.classifier.predict.rows",
    "UserError": "fer.errors",
    "load_model": "fer.classifier.api",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
