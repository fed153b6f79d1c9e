"""Progress: how long-running steps tell whoever started them where they are."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from rich.progress import TaskID

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


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Bars with the time left: on stderr if that is a terminal, below the cell in a notebook.

    Nothing is shown where nobody watches: in a pipe, a file or a terminal without a cursor.

        with mixq.progress_bar() as progress:
            result = mixq.search(model, inputs, target_compression=6, progress=progress)
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    # FORCE_COLOR makes rich take a pipe for a terminal, but a pipe has no cursor to move.
    seen = console.is_jupyter or (
        sys.stderr is not None and sys.stderr.isatty() and not console.is_dumb_terminal
    )
    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        disable=not seen,
    )
    tasks: dict[str, TaskID] = {}

    def report(stage: str, done: int, total: int) -> None:
        if stage not in tasks:
            tasks[stage] = bars.add_task(stage, total=total, completed=done)
        bars.update(tasks[stage], completed=done, total=total)

    with bars:
        yield report


@contextmanager
def watched(progress: Progress | bool) -> Iterator[Progress]:
    """Progress as calls of the library take it: True for bars, False for none, or one's own."""
    if progress is True:
        with progress_bar() as report:
            yield report
    else:
        yield progress or silent
