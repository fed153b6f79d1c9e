"""The models of examples/models, for the tests of several rooms."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mixq.errors import MissingExtraError, SourceError

FOLDER = Path(__file__).parents[1] / "examples" / "models"
NAMES = ("minilm", "efficientnet_lite0", "crepe_tiny", "smollm2")


@cache
def example(name: str) -> ModuleType:
    """The example's module; loading it needs none of the wheels."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def load(name: str) -> tuple[Any, Any, Any]:
    """Model, calibration and evaluation; the test is skipped where a wheel is missing."""
    try:
        loaded: tuple[Any, Any, Any] = example(name).load()
    except (MissingExtraError, SourceError) as missing:
        pytest.skip(str(missing))
    return loaded
