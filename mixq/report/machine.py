"""What a run ran on and with, as far as it is the same in every run there."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from mixq.bench.result import Machine

LIBRARIES: Final = ("torch", "optuna", "numpy", "scipy")


def machine() -> dict[str, object]:
    """Processor, cores, system and versions; no date and no load, which differ between runs."""
    here = Machine.here()
    return {
        "processor": here.processor,
        "cores": here.cores,
        "system": here.system,
        "python": platform.python_version(),
        **{name: found for name in LIBRARIES if (found := _version(name)) is not None},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
