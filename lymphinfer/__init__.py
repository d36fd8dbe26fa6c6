"""LymphInfer: lymphocyte markers from plain H&E whole-slide images.

From Python, as from a notebook::

    import lymphinfer

    result = lymphinfer.predict_slide("slide.svs")
    batch = lymphinfer.predict_folder("slides/", "results/")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lymphinfer.version import __version__

if TYPE_CHECKING:
    from lymphinfer.batch.options import BatchOptions
    from lymphinfer.batch.run import predict_folder
    from lymphinfer.batch.single import predict_slide
    from lymphinfer.batch.summary import BatchResult, SlideOutcome
    from lymphinfer.errors import LymphinferError
    from lymphinfer.predict.result import SlideResult
    from lymphinfer.predict.settings import PredictSettings

_HOMES = {
    "BatchOptions": "lymphinfer.batch.options",
    "BatchResult": "lymphinfer.batch.summary",
    "LymphinferError": "lymphinfer.errors",
    "PredictSettings": "lymphinfer.predict.settings",
    "SlideOutcome": "lymphinfer.batch.summary",
    "SlideResult": "lymphinfer.predict.result",
    "predict_folder": "lymphinfer.batch.run",
    "predict_slide": "lymphinfer.batch.single",
}

__all__ = [
    "BatchOptions",
    "BatchResult",
    "LymphinferError",
    "PredictSettings",
    "SlideOutcome",
    "SlideResult",
    "__version__",
    "predict_folder",
    "predict_slide",
]


def __getattr__(name: str) -> Any:
    """Load a name where it is first used: the command line answers ``--help`` without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
