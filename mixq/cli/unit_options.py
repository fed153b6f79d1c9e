"""Options that name layers: what stays at a width, and what goes together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

import typer

from mixq.cli.panels import FORMATS
from mixq.errors import UsageError
from mixq.files import one_line

Pins = Annotated[
    list[str] | None,
    typer.Option(
        "--pin",
        metavar="PATTERN=BITS",
        help="Keep matching units at a width; may be repeated.",
        rich_help_panel=FORMATS,
    ),
]
Ties = Annotated[
    list[str] | None,
    typer.Option(
        "--tie",
        metavar="PATTERN",
        help="Matching units take one format together (q/k/v that a runtime fuses).",
        rich_help_panel=FORMATS,
    ),
]


def parse_pins(pins: Sequence[str] | None) -> dict[str, int]:
    """Pattern to width from `head.*=8`.

    Raises:
        UsageError: if a pin has no `=` or no whole number behind it.
    """
    parsed: dict[str, int] = {}
    for pin in pins or ():
        pattern, equals, width = pin.rpartition("=")
        if not equals or not pattern or re.fullmatch("[0-9]{1,3}", width) is None:
            raise UsageError(
                f"--pin is {one_line(repr(pin), 100)}, but it must be PATTERN=BITS, such as "
                "'head.*=8'"
            )
        parsed[pattern] = int(width)
    return parsed


def whole(text: str) -> int:
    """A whole number as people write it: int() would take 1_6 for 16.

    Raises:
        ValueError: if it is none.
    """
    if re.fullmatch(" *-?[0-9]{1,9} *", text) is None:
        raise ValueError(text)
    return int(text)
