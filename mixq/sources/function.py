"""Models and calibration data from a function of the user: `package.module:function`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

from torch import nn

from mixq.calibration import Calibration
from mixq.errors import MixqError, SourceError
from mixq.sources.loaded import LoadedModel
from mixq.sources.reason import reason

if TYPE_CHECKING:
    from mixq.sources.loaded import Evaluate


def load_from_function(spec: str) -> LoadedModel:
    """The model that a function returns, alone or as (model, calibration[, evaluate]).

    Raises:
        SourceError: if there is no such function, or it fails, or returns something else.
        CalibrationError: if the calibration breaks a rule.
    """
    result = call_function(spec)
    model, calibration, evaluate = result, None, None
    if isinstance(result, tuple) and len(result) in (2, 3):
        model, calibration, evaluate = (*result, None)[:3]
    if not isinstance(model, nn.Module):
        raise SourceError(
            f"{spec} returned a {_kind(result)}, but it must return an nn.Module or a tuple "
            "(model, calibration) or (model, calibration, evaluate)"
        )
    if evaluate is not None and not callable(evaluate):
        raise SourceError(
            f"{spec} returned a {type(evaluate).__name__} as evaluate, but it must be a function "
            "of the model that returns a dict of metrics"
        )
    return LoadedModel(
        name=spec,
        model=model.eval(),
        calibration=None if calibration is None else Calibration.of(calibration),
        evaluate=cast("Evaluate | None", evaluate),
    )


def call_function(spec: str) -> object:
    """What the function of a spec returns; it is called without arguments.

    Raises:
        SourceError: if it cannot be imported or fails; chained to the error of the user's code.
    """
    function = find_function(spec)
    try:
        return function()
    except MixqError:
        raise
    except Exception as error:  # a user's code may raise anything; it is reported, not swallowed
        raise SourceError(f"{spec} failed: {reason(error)}; call it by itself to debug") from error


def find_function(spec: str) -> Callable[..., object]:
    """The function of a spec, imported.

    Raises:
        SourceError: if there is none, or its module cannot be imported.
    """
    target, _, name = spec.rpartition(":")
    if not target or not name.isidentifier():
        raise SourceError(
            f"{spec!r} is not a spec like package.module:function or path/to/file.py:function"
        )
    module = _import_file(Path(target)) if target.endswith(".py") else _import_module(target)
    function = getattr(module, name, None)
    if not callable(function):
        state = "no" if function is None else f"a {type(function).__name__}, not a function, as"
        way_out = _nearest(name, module) or "name a function"
        raise SourceError(f"{target!r} has {state} {name!r}; {way_out}")
    return cast("Callable[..., object]", function)


def _nearest(name: str, module: ModuleType) -> str | None:
    """The question whether a callable of a name much like `name` is meant; None without one."""
    callables = [known for known, value in vars(module).items() if callable(value)]
    near = get_close_matches(name, callables, 1)
    return f"did you mean {near[0]!r}?" if near else None


def _import_module(name: str) -> ModuleType:
    """A module by its dotted name, importable from the current folder too, as pytest does."""
    _put_on_path(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise SourceError(
                f"module {name!r} is neither installed nor in {Path.cwd()}; check the spelling "
                "or install it"
            ) from error
        raise SourceError(f"importing {name!r} failed: {reason(error)}") from error
    except Exception as error:  # a user's module may raise anything while it is imported
        raise SourceError(f"importing {name!r} failed: {reason(error)}") from error


def _import_file(path: Path) -> ModuleType:
    """A module from a file, with its folder importable, as `python file.py` does."""
    if not path.is_file():
        raise SourceError(f"file {str(path)!r} does not exist; check the path before ':'")
    path = path.resolve()
    # A name of its own, so that a file called json.py shadows nothing.
    name = f"mixq_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SourceError(f"file {str(path)!r} cannot be imported; it must be a Python file")
    _put_on_path(path.parent)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while it is being executed
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's file may raise anything while it is imported
        del sys.modules[name]
        raise SourceError(f"importing {str(path)!r} failed: {reason(error)}") from error
    return module


def _put_on_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _kind(result: object) -> str:
    if not isinstance(result, tuple):
        return type(result).__name__
    return f"tuple of ({', '.join(type(item).__name__ for item in result)})"
