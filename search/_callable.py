"""Makes `mixq.search(...)` the call of the library beside `mixq.search.frontier`, the room."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _SearchRoom(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from mixq.search.call import search  # torch and optuna are loaded at the first call

        return search(*args, **kwargs)


def make_callable(name: str) -> None:
    """Turn the module of this name into one that can be called.

    Setting `__class__` of a module is what the Python reference offers for customizing modules
    (Data model, section 3.3.2.1).
    """
    sys.modules[name].__class__ = _SearchRoom
