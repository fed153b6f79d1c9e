"""The modules of docs/_site, which are no package."""

from __future__ import annotations

import importlib.util
from functools import cache
from types import ModuleType

from .blocks import ROOT


@cache
def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / f"docs/_site/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def formulas() -> ModuleType:
    return module("formulas")
