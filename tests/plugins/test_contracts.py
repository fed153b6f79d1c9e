"""The example packages keep the contracts, with the tests that their authors wrote."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from mixq.testing import ProfileContract, RoundingContract, RuntimeContract

PLUGINS = Path(__file__).parents[2] / "examples" / "plugins"


def suite(file: str, contract: type) -> Any:
    """The one class of a test file that keeps a contract."""
    spec = importlib.util.spec_from_file_location(f"example_{Path(file).stem}", PLUGINS / file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    (found,) = [kind for kind in vars(module).values()
                if isinstance(kind, type) and kind.__bases__ == (contract,)]  # fmt: skip
    return found


TestDescent = suite("descent/test_mixq_descent.py", RoundingContract)
TestNpz = suite("npz/test_mixq_npz.py", RuntimeContract)
TestMyServer = suite("chip/test_my_server.py", ProfileContract)
