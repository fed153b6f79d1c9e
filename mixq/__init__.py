"""mixq: sensitivity-driven mixed-precision quantization for PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixq.artifact import load as load
    from mixq.artifact import save as save
    from mixq.calibration import Calibration as Calibration
    from mixq.errors import MixqError as MixqError
    from mixq.export.export import export as export
    from mixq.formats import Format as Format
    from mixq.plan import Plan as Plan
    from mixq.progress import progress_bar as progress_bar
    from mixq.search.call import search as search
    from mixq.search.palette import Palette as Palette
    from mixq.search.result import SearchResult as SearchResult
    from mixq.training.finetune import finetune as finetune

__version__ = "0.1.0"
__all__ = [
    "Calibration",
    "Format",
    "MixqError",
    "Palette",
    "Plan",
    "SearchResult",
    "export",
    "finetune",
    "load",
    "progress_bar",
    "save",
    "search",
]

_HOMES = {
    "Calibration": "mixq.calibration",
    "Format": "mixq.formats",
    "MixqError": "mixq.errors",
    "Palette": "mixq.search.palette",
    "Plan": "mixq.plan",
    "SearchResult": "mixq.search.result",
    "finetune": "mixq.training.finetune",
    "load": "mixq.artifact",
    "progress_bar": "mixq.progress",
    "save": "mixq.artifact",
}


def __getattr__(name: str) -> Any:
    # Loaded on first use, so that `mixq --help` answers without importing torch.
    import importlib

    if name in ("export", "search"):  # rooms that are called as functions
        return importlib.import_module(f"mixq.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
