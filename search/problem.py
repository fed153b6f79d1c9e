"""Problem: which formats each unit may take, what each costs, and what a whole assignment costs.

Errors, bytes and latencies of units add up (the *additive* model); choosing one format per unit
under budgets is then a multiple-choice knapsack, which `mixq.search.solve.solve` solves exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mixq.errors import ModelError, PlanError, UsageError
from mixq.formats import Format
from mixq.search.choice import Choice, Item
from mixq.search.limits import Quantity, Totals

MAX_BYTES: Final = 2**53
"""Byte sums stay below this, so that int64 and float64 both hold them exactly."""


@dataclass(frozen=True)
class Problem:
    """Choices of every unit, and the costs that no choice changes.

    Attributes:
        choices: unit name -> the formats it may take.
        original_bytes: bytes of the whole model in 32-bit floats.
        other_bytes: bytes stored for everything that is not a unit.
        other_latency_s: time of everything that no unit changes [s].
        constant_memory_bytes: live activations and runtime, beside the weights.
        ties: groups of units that must take the same format.

    Raises:
        ModelError: for numbers that cannot be: no units, no choices, a negative or non-finite
            error or latency, non-positive bytes.
        UsageError: if a tie names an unknown unit or leaves no common format.
    """

    choices: Mapping[str, tuple[Choice, ...]]
    _: KW_ONLY
    original_bytes: int
    other_bytes: int = 0
    other_latency_s: float = 0.0
    constant_memory_bytes: int = 0
    ties: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        """Refuse impossible numbers and ties."""
        object.__setattr__(self, "choices", {k: tuple(v) for k, v in self.choices.items()})
        _check_numbers(self)
        for tie in self.ties:
            for unit in tie:
                _check_known(self, unit, "a tie")
        object.__setattr__(self, "ties", _merge_overlapping(self.ties))
        for group in self.ties:
            if not _common_formats(self, group):
                raise UsageError(
                    f"the tie of {', '.join(group)} leaves no format that all of them may take; "
                    "give them a common format, pin them alike, or drop the tie"
                )

    def tied(self, groups: Iterable[Sequence[str]]) -> Problem:
        """The same problem where the units of each group must take the same format.

        Groups that share a unit become one.

        Raises:
            UsageError: if a group names an unknown unit or has no common format.
        """
        return replace(self, ties=(*self.ties, *(tuple(group) for group in groups)))

    def pinned(self, bits: Mapping[str, int]) -> Problem:
        """The same problem where the named units keep only formats of the given width.

        Raises:
            UsageError: if a unit is unknown or has no format of that width.
        """
        choices = dict(self.choices)
        for unit, width in bits.items():
            _check_known(self, unit, "a pin")
            kept = tuple(choice for choice in choices[unit] if choice.format.bits == width)
            if not kept:
                widths = sorted({choice.format.bits for choice in choices[unit]}, reverse=True)
                raise UsageError(
                    f"unit {unit!r} is pinned to {width} bits, but it may only take "
                    f"{', '.join(map(str, widths))}; pin it to one of those"
                )
            choices[unit] = kept
        return replace(self, choices=choices)

    def choice(self, unit: str, fmt: Format) -> Choice:
        """The choice of `unit` that has the format `fmt`.

        Raises:
            PlanError: if the unit is unknown or may not take the format.
        """
        for choice in self.choices.get(unit, ()):
            if choice.format == fmt:
                return choice
        if unit not in self.choices:
            raise PlanError(f"unit {unit!r} is not in this problem; use a plan of this model")
        names = ", ".join(choice.format.name for choice in self.choices[unit])
        raise PlanError(f"unit {unit!r} has format {fmt.name}, but it may only take {names}")

    def evaluate(self, assignment: Mapping[str, Format]) -> Totals:
        """Totals of an assignment; sums of floats are correctly rounded (`math.fsum`).

        Raises:
            PlanError: if it leaves out a unit, names an unknown one, gives a unit a format that
                it may not take, or unties a tie.
        """
        for unit in self.choices:
            if unit not in assignment:
                raise PlanError(f"unit {unit!r} has no format; an assignment names every unit")
        chosen = [self.choice(unit, fmt) for unit, fmt in assignment.items()]
        for tie in self.ties:
            if len({assignment[unit] for unit in tie}) > 1:
                raise PlanError(
                    f"the tied units {', '.join(tie)} have different formats; give them one"
                )
        weight_bytes = self.other_bytes + sum(choice.weight_bytes for choice in chosen)
        return Totals(
            error=math.fsum(choice.error for choice in chosen),
            weight_bytes=weight_bytes,
            latency_s=math.fsum((self.other_latency_s, *(c.latency_s for c in chosen))),
            peak_memory_bytes=self.other_bytes
            + self.constant_memory_bytes
            + sum(choice.peak_memory_bytes for choice in chosen),
            compression=self.original_bytes / weight_bytes,
        )

    @property
    def memory_is_bytes(self) -> bool:
        """Whether peak memory is the bytes stored and a constant, so that one limit says both."""
        return all(
            choice.peak_memory_bytes == choice.weight_bytes
            for choices in self.choices.values()
            for choice in choices
        )

    @cached_property
    def items(self) -> tuple[Item, ...]:
        """The independent choices, in an order that does not depend on the units' names.

        Items of equal byte counts are neighbours, which keeps the number of distinct byte sums
        small in the dynamic program; names only break ties between interchangeable items.
        """
        in_tie = {unit for tie in self.ties for unit in tie}
        groups = [*self.ties, *((unit,) for unit in self.choices if unit not in in_tie)]
        return tuple(sorted((_item(self, group) for group in groups), key=_item_key))

    def picked(self, picks: Sequence[int] | NDArray[np.int64]) -> dict[str, Format]:
        """Unit -> format, from a position in `item.formats` for every item."""
        taken: dict[str, Format] = {}
        for item, pick in zip(self.items, picks, strict=True):
            taken.update(dict.fromkeys(item.units, item.formats[pick]))
        return {unit: taken[unit] for unit in self.choices}

    def other(self, quantity: Quantity) -> float:
        """The part of a total that no choice changes."""
        if quantity == "weight_bytes":
            return self.other_bytes
        if quantity == "peak_memory_bytes":
            return self.other_bytes + self.constant_memory_bytes
        return self.other_latency_s if quantity == "latency_s" else 0.0

    def extreme(self, quantity: Quantity, *, largest: bool = False) -> Totals:
        """Totals of an assignment that has the smallest (or largest) possible `quantity`."""
        assignment: dict[str, Format] = {}
        for item in self.items:
            values = item.values(quantity)
            best = int(np.argmax(values) if largest else np.argmin(values))
            assignment.update(dict.fromkeys(item.units, item.formats[best]))
        return self.evaluate(assignment)


def _check_numbers(problem: Problem) -> None:
    if not problem.choices:
        raise ModelError("the problem has no units, so there is nothing to choose")
    for unit, choices in problem.choices.items():
        if not choices:
            raise ModelError(f"unit {unit!r} has no format to choose from; allow it at least one")
        formats = [choice.format for choice in choices]
        for choice in choices:
            name = choice.format.name
            if formats.count(choice.format) > 1:
                raise ModelError(f"unit {unit!r} lists format {name} twice; list it once")
            for what, value in (("error", choice.error), ("latency_s", choice.latency_s)):
                if not (math.isfinite(value) and value >= 0):
                    raise ModelError(
                        f"unit {unit!r} in {name} has {what} {value}, but it must be finite and "
                        "not negative; leave that format out or measure it again"
                    )
            if choice.weight_bytes <= 0:
                raise ModelError(
                    f"unit {unit!r} in {name} has {choice.weight_bytes} bytes, but stored "
                    "weights take at least one; leave empty parameters out"
                )
    if problem.original_bytes <= 0:
        raise ModelError(f"original_bytes is {problem.original_bytes}, but it must be positive")
    for what, constant in (
        ("other_bytes", problem.other_bytes),
        ("other_latency_s", problem.other_latency_s),
        ("constant_memory_bytes", problem.constant_memory_bytes),
    ):
        if not (math.isfinite(constant) and constant >= 0):
            raise ModelError(f"{what} is {constant}, but it must be finite and not negative")
    for what in ("error", "latency_s"):
        worst = sum(max(getattr(c, what) for c in choices) for choices in problem.choices.values())
        if not math.isfinite(worst):
            raise ModelError(
                f"the largest {what} of all units sums to {worst}, but sums must be finite; "
                "leave the formats out that break the model"
            )
    largest = sum(max(c.weight_bytes for c in choices) for choices in problem.choices.values())
    if largest + problem.other_bytes >= MAX_BYTES:
        raise ModelError(
            f"the model could take {largest + problem.other_bytes} bytes, but sums are exact "
            f"below {MAX_BYTES} only; check the byte counts"
        )


def _check_known(problem: Problem, unit: str, what: str) -> None:
    if unit not in problem.choices:
        raise UsageError(
            f"{what} names unit {unit!r}, but the model has no such unit; "
            f"its units are named like {next(iter(problem.choices))!r}"
        )


def _merge_overlapping(groups: Iterable[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    """Disjoint groups of two or more units; groups that share a unit become one."""
    merged: list[dict[str, None]] = []
    for group in groups:
        union = dict.fromkeys(group)
        apart = []
        for known in merged:
            if known.keys() & union.keys():
                union = {**known, **union}
            else:
                apart.append(known)
        merged = [*apart, union]
    return tuple(tuple(group) for group in merged if len(group) > 1)


def _common_formats(problem: Problem, units: Sequence[str]) -> list[Format]:
    first, *rest = ([choice.format for choice in problem.choices[unit]] for unit in units)
    return [fmt for fmt in first if all(fmt in formats for formats in rest)]


def _item(problem: Problem, units: Sequence[str]) -> Item:
    rows = []
    for fmt in _common_formats(problem, units):
        chosen = [problem.choice(unit, fmt) for unit in units]
        error = math.fsum(choice.error for choice in chosen)
        latency_s = math.fsum(choice.latency_s for choice in chosen)
        memory_bytes = sum(c.peak_memory_bytes for c in chosen)
        size = sum(c.weight_bytes for c in chosen)
        rows.append((size, error, latency_s, fmt.name, fmt, memory_bytes))
    rows.sort(key=lambda row: row[:4])
    weight_bytes, errors, latencies_s, _, formats, memories_bytes = zip(*rows, strict=True)
    return Item(
        units=tuple(units),
        formats=formats,
        weight_bytes=np.array(weight_bytes, np.int64),
        errors=np.array(errors, np.float64),
        latencies_s=np.array(latencies_s, np.float64),
        memory_bytes=np.array(memories_bytes, np.int64),
    )


def _item_key(item: Item) -> tuple[list[int], list[float], list[float], tuple[str, ...]]:
    numbers = item.weight_bytes.tolist(), item.errors.tolist(), item.latencies_s.tolist()
    return (*numbers, item.units)
