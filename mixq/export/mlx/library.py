"""Library: mlx and mlx-lm, which are imported when they are needed and not before."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from mixq.errors import MissingExtraError

PURPOSE = "the mlx runtime"


def core() -> Any:
    """`mlx.core`.

    Raises:
        MissingExtraError: if mlx is not installed.
    """
    return _module("mlx.core", "mlx")


def layers() -> Any:
    """`mlx.nn`.

    Raises:
        MissingExtraError: if mlx is not installed.
    """
    return _module("mlx.nn", "mlx")


def flattened(tree: Any) -> dict[str, Any]:
    """The arrays of a model by their dotted names."""
    return dict(_module("mlx.utils", "mlx").tree_flatten(tree))


def lm_utils() -> Any:
    """`mlx_lm.utils`, which loads models.

    Raises:
        MissingExtraError: if mlx-lm is not installed.
    """
    try:
        import resource  # not on Windows, where mlx-lm does not import either
    except ImportError as error:
        raise MissingExtraError("mlx-lm", "mlx", PURPOSE) from error
    wanted, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    utils = _module("mlx_lm.utils", "mlx-lm")
    # At its import it lowers the open files of the whole process to 2048, of 4096 at most.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = hard if wanted == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return utils


def _module(name: str, package: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtraError(package, "mlx", PURPOSE) from error
