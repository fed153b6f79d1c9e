"""What commands print: results on stdout, progress and warnings on stderr."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from io import StringIO
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from mixq.cli.loudness import is_quiet, is_verbose
from mixq.errors import OutputError
from mixq.files import one_line

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mixq.progress import Progress

PIPE_WIDTH = 160
LONGEST_LINE = 4000
"""Characters of a message; a terminal scrolls for longer ones and nobody reads them."""


class OutputFormat(StrEnum):
    """How results are printed."""

    table = "table"
    json = "json"


def show(*results: RenderableType) -> None:
    """Print results for people on stdout; text is printed as it is, without markup."""
    screen = Console()  # which knows of NO_COLOR, FORCE_COLOR and TERM=dumb
    rendered = _Rendered()
    rendered.encoding = screen.encoding
    seen = sys.stdout is not None and sys.stdout.isatty()
    console = Console(
        file=rendered,
        # Wide enough for any table: a pipe has no width, and cut names are of no use to scripts.
        width=screen.width if seen else PIPE_WIDTH,
        force_terminal=screen.is_terminal,
        color_system="auto" if screen.is_terminal else None,
        highlight=False,
    )
    for result in results:
        if isinstance(result, str):
            console.print(Text(one_line(result, LONGEST_LINE)), soft_wrap=True)
        else:
            console.print(result)
    _write(rendered.getvalue())


def show_json(value: object) -> None:
    """Print one JSON object, and nothing else, on stdout."""
    _write(json.dumps(value, indent=1, allow_nan=False) + "\n")


def note(text: str) -> None:
    """Print a remark in one line on stderr, unless --quiet."""
    if not is_quiet():
        remark(text)


def remark(text: str) -> None:
    """Print one line on stderr, whatever was asked: an error, or what --verbose asks for."""
    if sys.stderr is None:  # closed by whoever started us; print would take stdout instead
        return
    line = one_line(" ".join(text.split()), LONGEST_LINE)
    with contextlib.suppress(OSError):  # a lost reader of remarks is no reason to stop
        print(line, file=sys.stderr, flush=True)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Bars on a terminal unless --quiet; with --verbose, a line for each finished stage too."""
    from mixq.cli.stage_log import timed
    from mixq.progress import watched

    with watched(not is_quiet()) as report:
        yield timed(report) if is_verbose() else report


def drop_stdout() -> None:
    """Send what is left in the buffer nowhere; Python would fail to write it again at exit."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Rendered(StringIO):
    """Text on its way to stdout; rich asks it which characters stdout can show."""

    encoding = "utf-8"


def _write(text: str) -> None:
    """Write to stdout at once, so that a failure shows here and not when Python exits.

    Raises:
        OutputError: if it cannot be written; a reader that has gone, such as `head`, is none.
    """
    if sys.stdout is None:  # closed by whoever started us
        return
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        drop_stdout()
        if not isinstance(error, BrokenPipeError):
            raise OutputError(
                f"standard output cannot be written: {error.strerror or error}; the files of "
                "the command, if it writes any, are whole"
            ) from error
