"""Makes `mixq.search(...)` the call of the library beside `mixq.search.frontier`, the room."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


def make_callable(room: str, function: str) -> None:
    """Turn a module into one that can be called.

    Setting `__class__` of a module is what the Python reference offers for customizing modules
    (Data model, section 3.3.2.1).

    Args:
        room: dotted name of the module.
        function: `package.module:name` of what a call runs; imported at the first call, because
            it brings torch and optuna.
    """
    module, _, name = function.partition(":")

    class CallableRoom(ModuleType):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return getattr(importlib.import_module(module), name)(*args, **kwargs)

    sys.modules[room].__class__ = CallableRoom
