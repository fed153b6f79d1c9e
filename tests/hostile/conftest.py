"""What tests of hostile input share."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .oracle import workplace


class _Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the oracle watches."""
    with workplace() as place:
        yield Path(place)


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[bytes]:
    """A pickle that leaves a file when it is loaded; fails if anything has loaded it."""
    sprung = tmp_path / "sprung"
    yield pickle.dumps(_Trap(sprung))
    assert not sprung.exists()
