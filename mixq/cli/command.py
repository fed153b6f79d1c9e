"""What every command has: --verbose, --quiet, and an end by Ctrl-C that says how to go on."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from enum import Enum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, get_args, get_origin

import typer
from typer.models import OptionInfo

from mixq.cli import debug_log
from mixq.cli.loudness import Loudness, ask
from mixq.cli.panels import SAID
from mixq.errors import MixqError
from mixq.files import one_line

INTERRUPTED: Final = 130
"""128 + SIGINT, what shells report for a program that Ctrl-C ended."""
PASSWORD: Final = re.compile(r"(://[^/@:]*):[^/@]*@")


class StoppedError(MixqError):
    """Ctrl-C, and how to go on."""

    exit_status: ClassVar[int] = INTERRUPTED


def _on_verbose(value: bool) -> bool:
    if value:
        ask(Loudness.verbose)
        debug_log.start()
    return value


def _on_quiet(value: bool) -> bool:
    if value:
        ask(Loudness.quiet)
    return value


Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        is_eager=True,
        callback=_on_verbose,
        metavar="",
        rich_help_panel=SAID,
        help="Say on stderr what is done and why: stages with their time, kernels, choices.",
    ),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        is_eager=True,
        callback=_on_quiet,
        metavar="",
        rich_help_panel=SAID,
        help="Say nothing on stderr but errors; results go to stdout as ever.",
    ),
]


def group(verbose: Verbose = False, quiet: Quiet = False) -> None:
    """What a group of commands does before one of them: nothing but hear how loud to be."""


def command(function: Callable[..., None]) -> Callable[..., None]:
    """`function` with --verbose and --quiet, which act by themselves, and an end by Ctrl-C.

    Raises:
        StoppedError: by what comes back, if Ctrl-C stops the function.
    """
    signature = inspect.signature(function, eval_str=True)
    own = inspect.signature(group, eval_str=True).parameters
    whole = signature.replace(
        parameters=[
            *map(_readable, signature.parameters.values()),
            *(option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in own.values()),
        ]
    )

    @wraps(function)
    def run(**given: Any) -> None:
        try:
            function(**{name: value for name, value in given.items() if name not in own})
        except KeyboardInterrupt:
            raise StoppedError(
                "interrupted, and nothing is left behind; from the start again with: "
                f"{this_command()}"
            ) from None

    run.__signature__ = whole  # type: ignore[attr-defined]
    run.__annotations__ = {name: item.annotation for name, item in whole.parameters.items()}
    return run


def _readable(parameter: inspect.Parameter) -> inspect.Parameter:
    """A parameter without words in help that are of use to programmers alone."""
    if get_origin(parameter.annotation) is not Annotated:
        return parameter
    kind, *told = get_args(parameter.annotation)
    option = next((item for item in told if isinstance(item, OptionInfo)), None)
    if option is None or option.metavar is not None:
        return parameter
    kinds = set(get_args(kind)) or {kind}
    option = copy(option)
    if bool in kinds:  # a flag takes no value
        option.metavar = ""
    elif kinds & {int, float}:
        option.metavar = "N"
    elif any(isinstance(item, type) and issubclass(item, Enum) for item in kinds):
        option.metavar = "NAME"
    return parameter.replace(annotation=Annotated[kind, option])


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """A part of a command that keeps what it has measured in a folder.

    Raises:
        StoppedError: if Ctrl-C stops it.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise StoppedError(
            f"interrupted; what was measured is kept in {one_line(folder)}, go on with: "
            f"{this_command()}"
        ) from None


class _Line:
    arguments: tuple[str, ...] = ()


def remember(arguments: Sequence[str]) -> None:
    """Note the command line, for messages that name it."""
    _Line.arguments = tuple(arguments)


def this_command() -> str:
    """The command line, fit for a shell; without passwords, which messages may not repeat."""
    return PASSWORD.sub(r"\1:***@", shlex.join(["mixq", *_Line.arguments]))
