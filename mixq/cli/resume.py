"""--resume: a search that takes what it is not told from the run in its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from mixq.cli import unit_options
from mixq.cli.console import note
from mixq.cli.panels import RUN
from mixq.errors import OutputError
from mixq.files import one_line

if TYPE_CHECKING:
    from typer.core import TyperOption

_STATE: Final = "mixq.cli.resume"
_OWN: Final = (
    *("output", "overwrite", "format", "resume", "verbose", "quiet"),
    "trust_remote_code",
)
"""Options that say how a command runs, not what is searched for, and trust, which no file has."""


def _on_output(ctx: typer.Context, value: Path) -> Path:
    ctx.meta[f"{_STATE}.output"] = value
    _take_up(ctx)
    return value


def _on_resume(ctx: typer.Context, value: bool) -> bool:
    ctx.meta[f"{_STATE}.resume"] = value
    _take_up(ctx)
    return value


Output = Annotated[
    Path,
    typer.Option(
        "--output",
        metavar="DIR",
        help="Folder for results and for going on.",
        is_eager=True,
        callback=_on_output,
        rich_help_panel=RUN,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Take every option that is not given from the run in the folder (its run.json names "
        "the code that gives the model, so trust the folder); pins are added to its pins. What "
        "was measured is not measured again.",
        is_eager=True,
        callback=_on_resume,
        rich_help_panel=RUN,
    ),
]


def requested(ctx: typer.Context) -> dict[str, object]:
    """The options that were given or taken up, as JSON values, for run.json."""
    given = {name: ctx.params[name] for name in ctx.params if name not in _OWN}
    return {
        name: _plain(value)
        for name, value in given.items()
        if _source(ctx, name) in ("COMMANDLINE", "DEFAULT_MAP")
    }


def with_earlier_pins(ctx: typer.Context, pins: Sequence[str] | None) -> list[str]:
    """The pins of the run that is taken up, behind them those given anew; one of each pattern.

    Raises:
        UsageError: if a pin has no `=` or no whole number behind it.
    """
    new = unit_options.parse_pins(pins)
    if _source(ctx, "pin") == "COMMANDLINE":
        earlier = unit_options.parse_pins((ctx.default_map or {}).get("pin"))
        # Of two patterns that match one unit, the last one wins.
        new = {k: v for k, v in earlier.items() if k not in new} | new
    return [f"{pattern}={bits}" for pattern, bits in new.items()]


def say_what_is_taken_up(ctx: typer.Context) -> None:
    """Say on stderr which options come from the folder."""
    names = {param.name: param.opts[0] for param in ctx.command.params}
    taken = []
    for name, value in (ctx.default_map or {}).items():
        if _source(ctx, name) == "DEFAULT_MAP":
            values = value if isinstance(value, list) else [value]
            taken += [f"{names[name]} {one_line(item, 100)}" for item in values]
    if taken:
        note(f"note: taken from the run in the folder: {' '.join(taken)}")


def _take_up(ctx: typer.Context) -> None:
    """Make the folder's options the defaults, once both the folder and the wish are known.

    Raises:
        OutputError: if the folder holds no search that could be taken up.
    """
    folder, wanted = (ctx.meta.get(f"{_STATE}.{name}") for name in ("output", "resume"))
    if not wanted or folder is None or ctx.resilient_parsing:
        return
    from mixq.search.folder import request_of

    request = request_of(folder)
    parameters = {str(p.name): p for p in ctx.command.params if str(p.name) not in _OWN}
    ctx.default_map = {
        name: _checked(folder, name, value, parameters) for name, value in request.items()
    }


def _checked(
    folder: Path, name: str, value: object, parameters: Mapping[str, Any]
) -> str | bool | list[str]:
    """An option's value as the command line would give it; typer looks at the text."""
    option: TyperOption | None = parameters.get(name)
    if option is not None:
        if option.is_flag:
            if isinstance(value, bool):
                return value
        elif option.multiple:
            if isinstance(value, list) and all(isinstance(item, str) for item in value):
                return value
        elif isinstance(value, str | int | float) and not isinstance(value, bool):
            return str(value)
    raise OutputError(
        f"run.json in {one_line(folder)} asks for {one_line(name, 40)} = "
        f"{one_line(repr(value), 60)}, which is no option of this mixq; give all options anew, "
        "without --resume"
    )


def _source(ctx: typer.Context, name: str) -> str:
    source = ctx.get_parameter_source(name)
    return "" if source is None else source.name


def _plain(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    return list(value) if isinstance(value, tuple) else value
