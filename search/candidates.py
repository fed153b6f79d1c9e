"""Candidates: which formats each unit may take, from widths, pins and ties given by the user."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from typing import Final

from mixq.errors import UsageError
from mixq.formats import WIDTHS, Format
from mixq.graph.units import WeightUnit

GROUP_SIZE: Final = 64
DEFAULT_FORMATS: Final[Mapping[int, Format]] = {
    32: Format(32),
    16: Format(16),
    8: Format(8, GROUP_SIZE),
    # Below 8 bits the zero point earns its bytes: on MiniLM it takes a third off the output
    # error at 4 bits for 1.5% more bytes, and at 2 bits the symmetric grid is only -1, 0, 1.
    4: Format(4, GROUP_SIZE, "zero-point"),
    2: Format(2, GROUP_SIZE, "zero-point"),
}
"""The format that each width stands for."""
CONVOLUTION_FORMATS: Final[Mapping[int, Format]] = {
    **DEFAULT_FORMATS,
    # Behind ReLUs the sum of a kernel's errors shifts its output, see mixq.quantize.flips; on
    # transformers, whose inputs are centred, cancelling it gains nothing.
    4: Format(4, GROUP_SIZE, "zero-point", "squant"),
}
"""The same for units that convolutions read."""


def default_formats(
    units: Mapping[str, WeightUnit], bits: Sequence[int], pins: Mapping[str, int]
) -> dict[str, tuple[Format, ...]]:
    """Candidate formats of each unit: those of `bits`, or of the unit's pin.

    A format that stores no fewer bytes than a wider one is left out, since it gains nothing.

    Raises:
        UsageError: if `bits` is empty or names an unknown width.
    """
    for width in bits:
        check_width(width, "--bits")
    if not bits:
        raise UsageError("--bits is empty, but at least one width is needed; try 32,8,4,2")
    widths = sorted(set(bits), reverse=True)
    return {
        name: _shrinking(unit, [pins[name]] if name in pins else widths)
        for name, unit in units.items()
    }


def resolve_pins(units: Mapping[str, WeightUnit], pins: Mapping[str, int]) -> dict[str, int]:
    """Unit name to width, from patterns (`*` and `?` as in file names); the last one wins.

    Raises:
        UsageError: if a pattern matches no unit, naming near ones, or a width is unknown.
    """
    resolved: dict[str, int] = {}
    for pattern, width in pins.items():
        check_width(width, f"--pin {pattern}")
        for name in matching(units, pattern, "--pin"):
            resolved[name] = width
    return resolved


def resolve_ties(units: Mapping[str, WeightUnit], ties: Sequence[str]) -> list[list[str]]:
    """Groups of unit names, one group from each pattern that matches at least two.

    Raises:
        UsageError: if a pattern matches fewer than two units.
    """
    groups = []
    for pattern in ties:
        names = matching(units, pattern, "--tie")
        if len(names) < 2:
            raise UsageError(
                f"--tie {pattern} matches only {names[0]}, but a tie takes two units or more"
            )
        groups.append(names)
    return groups


def matching(units: Mapping[str, WeightUnit], pattern: str, option: str) -> list[str]:
    """Names of the units whose name or alias matches `pattern`.

    Raises:
        UsageError: if there is none.
    """
    found = [
        name
        for name, unit in units.items()
        if any(fnmatch.fnmatchcase(alias, pattern) for alias in (name, *unit.aliases))
    ]
    if not found:
        near = difflib.get_close_matches(pattern, units, n=3, cutoff=0.4)
        hint = f"near ones are {', '.join(near)}" if near else "list them with mixq analyze"
        raise UsageError(f"{option} {pattern} matches none of the {len(units)} units; {hint}")
    return found


def check_width(width: int, option: str) -> None:
    """Refuse a width that no format has.

    Raises:
        UsageError: naming the option and the widths there are.
    """
    if width not in WIDTHS:
        raise UsageError(
            f"{option} asks for {width} bits, but widths are {', '.join(map(str, WIDTHS))}"
        )


def _shrinking(unit: WeightUnit, widths: Sequence[int]) -> tuple[Format, ...]:
    convolution = any(work.kind == "conv" for work in unit.work)
    formats = CONVOLUTION_FORMATS if convolution else DEFAULT_FORMATS
    kept: list[Format] = []
    for width in widths:
        fmt = formats[width]
        if not kept or unit.stored_bytes(fmt) < unit.stored_bytes(kept[-1]):
            kept.append(fmt)
    return tuple(kept)
