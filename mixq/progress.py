"""Progress: how long-running steps tell whoever started them where they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Receives the progress of a run; it must be cheap and must not raise.

    Called with the stage in words, the steps done and the steps in all; the first call of a
    stage has `done` 0, unless earlier steps were resumed, the last has `done == total`.
    """

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Note that `done` of `total` steps of `stage` are behind us."""
        ...


def silent(stage: str, done: int, total: int) -> None:
    """The progress that nobody watches."""


def track(
    steps: Iterable[T], stage: str, total: int, progress: Progress, *, done: int = 0
) -> Iterator[T]:
    """The items of `steps`, reported as they are finished; `done` of `total` were earlier."""
    progress(stage, done, total)
    for index, step in enumerate(steps, start=done + 1):
        yield step
        progress(stage, index, total)
