"""Candidates: which formats each unit may take, from widths, pins and ties given by the user."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

from mixq.errors import UsageError
from mixq.formats import WIDTHS, Format
from mixq.graph.units import WeightUnit
from mixq.search.palette import Palette

Reads: TypeAlias = Callable[[WeightUnit, Format], bool]
"""Whether the runtime has kernels that read a unit in a format."""


def candidate_formats(
    units: Mapping[str, WeightUnit], palette: Palette, pins: Mapping[str, int], reads: Reads
) -> dict[str, tuple[Format, ...]]:
    """Candidate formats of each unit: those of the palette's widths, or of the unit's pin.

    The formats of one width stand together, the one of uniform plans first. A format that stores
    no fewer bytes than every wider one is left out, since it gains nothing.

    Raises:
        UsageError: if the palette has no width, or an unknown one.
    """
    for width in palette.bits:
        check_width(width, "--bits")
    if not palette.bits:
        raise UsageError("--bits is empty, but at least one width is needed; try 32,8,4,2")
    widths = sorted(set(palette.bits), reverse=True)
    return {
        name: _shrinking(unit, palette, [pins[name]] if name in pins else widths, reads)
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


def _shrinking(
    unit: WeightUnit, palette: Palette, widths: Sequence[int], reads: Reads
) -> tuple[Format, ...]:
    kept: list[Format] = []
    for width in widths:
        wider = min((unit.stored_bytes(fmt) for fmt in kept), default=None)
        formats = palette.formats(width, partial(reads, unit))
        # Two group sizes beyond the columns are one and the same scale per row.
        by_bytes = {(unit.stored_bytes(f), f.grid, f.activation): f for f in reversed(formats)}
        kept += [
            fmt
            for fmt in formats
            if fmt in by_bytes.values() and (wider is None or unit.stored_bytes(fmt) < wider)
        ]
    return tuple(kept)
