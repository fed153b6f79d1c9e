"""Target: a file format, how its files are changed, and the reader that has to bear it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from .mutate import Mutate, plain


@dataclass(frozen=True)
class Target:
    """One file format.

    Attributes:
        name: in tables.
        file: what its file is called.
        seeds: makes valid files, and whatever else lies in the folder.
        mutate: what knows the format's structure.
        read: the reader, which refuses by a MixqError or returns what it has read.
        check: fails if what was read is not right; may write in the folder.
        named: what a refusal has to name, if that is not the file.
        writes: whether the reader itself may write in the folder.
        generates: names of code that the reader's libraries make on their own account.
        cost: how many times slower than most; the test suite tries so many times fewer.
    """

    name: str
    file: str
    seeds: Callable[[Path], Sequence[bytes]]
    mutate: Mutate
    read: Callable[[Path], Any]
    check: Callable[[Any, Path], None] | None = None
    named: str = ""
    writes: bool = False
    generates: tuple[str, ...] = ()
    cost: int = 1


def made(target: Target, seeds: Sequence[bytes], seed: int, index: int) -> bytes:
    """The input of this number, the same in every process."""
    rng = Random(f"{target.name} {seed} {index}")
    data = rng.choice(seeds)
    if index < len(seeds):
        return seeds[index]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = (target.mutate if rng.randrange(8) else plain)(data, rng)
    return data
