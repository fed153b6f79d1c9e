"""What commands print: results on stdout, progress and warnings on stderr."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mixq.progress import Progress


class OutputFormat(StrEnum):
    """How results are printed."""

    table = "table"
    json = "json"


def show(*results: RenderableType) -> None:
    """Print results for people on stdout."""
    console = Console(highlight=False)
    if not console.is_terminal:
        # Wide enough for any table: a pipe has no width, and cut names are of no use to scripts.
        console = Console(highlight=False, width=160)
    for result in results:
        console.print(result)


def show_json(value: object) -> None:
    """Print one JSON object, and nothing else, on stdout."""
    print(json.dumps(value, indent=1, allow_nan=False))


def note(text: str) -> None:
    """Print a remark on stderr."""
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(text)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Progress with time left on stderr; a line for each finished stage where no one watches."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        disable=not console.is_terminal,
    )
    tasks: dict[str, TaskID] = {}
    finished: set[tuple[str, int]] = set()

    def report(stage: str, done: int, total: int) -> None:
        if stage not in tasks:
            tasks[stage] = bars.add_task(stage, total=total, completed=done)
        bars.update(tasks[stage], completed=done, total=total)
        if not console.is_terminal and done == total and (stage, total) not in finished:
            finished.add((stage, total))
            note(f"{stage}: {done} of {total}")

    with bars:
        yield report
