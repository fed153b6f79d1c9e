"""Core: the exact optimum under one limit on bytes, for thousands of items.

A Lagrange multiplier, the rate at the corner of the hull where the bytes run out, gives a bound
and a plan close to it. What a format costs above the bound (its reduced cost) may not exceed the
distance between the two, which fixes most items; what remains, the core, is solved by dynamic
programming that drops every partial sum that is dominated or cannot come below the best plan.

Source: Pisinger, "A minimal algorithm for the multiple-choice knapsack problem", European Journal
of Operational Research 83(2), 1995; the bound of Sinha, Zoltners, Operations Research 27(3), 1979.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mixq.search.problem import Item, Problem

MOST_STATES: Final = 4_000_000
"""Partial sums of one item; with more the search is given up."""
SLACK: Final = 1e-12
"""Of the largest sum that the bound is made of: sums in another order differ by less, and no
optimum may be dropped for that."""

Bytes = NDArray[np.int64]
Errors = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Optimum:
    """The plan of least error within the bytes, and of the fewest bytes among equal ones.

    Attributes:
        picks: position in `item.formats` for every item.
        states: partial sums that were formed to prove it.
    """

    picks: list[int]
    states: int


@dataclass(frozen=True, eq=False)
class _Row:
    """An item with those of its formats that may still be in the optimum.

    Attributes:
        index: of the item.
        kept: positions in `item.formats`.
        light: position in `kept` of the format of least reduced cost.
    """

    index: int
    kept: Indices
    weight_bytes: Bytes
    errors: Errors
    reduced: Errors
    light: int


def solve_core(problem: Problem, weight_bytes: int) -> Optimum | None:
    """The optimum within a limit on all bytes; None if nothing fits or there are too many sums.

    Args:
        problem: ties and pins are in its items.
        weight_bytes: of everything that is stored.
    """
    items = problem.items
    room = weight_bytes - problem.other_bytes
    hulls = [_hull(item) for item in items]
    smallest = sum(
        int(item.weight_bytes[hull[0]]) for item, hull in zip(items, hulls, strict=True)
    )
    if smallest > room:
        return None
    rate, picks = _fill(items, hulls, room - smallest)
    if rate == 0:  # every item has its least error
        return Optimum(picks, 0)
    values = [item.errors + rate * item.weight_bytes for item in items]
    bound = sum(float(value.min()) for value in values) - rate * room
    best = sum(float(item.errors[pick]) for item, pick in zip(items, picks, strict=True))
    slack = SLACK * (best + rate * room)
    rows = []
    for index, (item, value) in enumerate(zip(items, values, strict=True)):
        reduced = value - value.min()
        kept = np.flatnonzero(bound + reduced <= best + slack)
        light = int(np.argmin(reduced[kept]))
        rows.append(
            _Row(index, kept, item.weight_bytes[kept], item.errors[kept], reduced[kept], light)
        )
    # What is nearly decided comes last: by then the best plan is known better.
    rows.sort(key=_openness)
    return _search(rows, room, rate, bound, best + slack, slack)


def _openness(row: _Row) -> tuple[int, float]:
    others = np.delete(row.reduced, row.light)
    return len(row.kept) == 1, float(others.min()) if len(others) else 0.0


def _search(
    rows: Sequence[_Row], room: int, rate: float, bound: float, best: float, slack: float
) -> Optimum | None:
    """Dynamic programming over the rows, in their order."""
    open_rows = [row for row in rows if len(row.kept) > 1]
    light_bytes = np.array([row.weight_bytes[row.light] for row in rows])
    light_errors = np.array([row.errors[row.light] for row in rows])
    # What all later rows take at least, and what they take in the plan of the multiplier.
    least = np.array([row.weight_bytes.min() for row in rows])
    least_after = np.append(np.cumsum(least[::-1])[::-1][1:], 0)
    bytes_after = np.append(np.cumsum(light_bytes[::-1])[::-1][1:], 0)
    errors_after = np.append(np.cumsum(light_errors[::-1])[::-1][1:], 0.0)
    stored, errors, above = np.zeros(1, np.int64), np.zeros(1), np.zeros(1)
    ways: list[tuple[Indices, Indices]] = []
    states = 0
    for step, row in enumerate(open_rows):
        if len(stored) * len(row.kept) > MOST_STATES:
            return None
        stored = np.add.outer(stored, row.weight_bytes).ravel()
        errors = np.add.outer(errors, row.errors).ravel()
        above = np.add.outer(above, row.reduced).ravel()
        states += len(stored)
        rest = errors + errors_after[step]
        fits = stored + bytes_after[step] <= room
        if fits.any():
            best = min(best, float(rest[fits].min()) + slack)
        useful = (stored + least_after[step] <= room) & (bound + above <= best)
        kept = np.flatnonzero(useful)
        kept = kept[_undominated(stored[kept], errors[kept])]
        ways.append((kept // len(row.kept), kept % len(row.kept)))
        stored, errors, above = stored[kept], errors[kept], above[kept]
    fixed_bytes = int(sum(row.weight_bytes[0] for row in rows if len(row.kept) == 1))
    inside = np.flatnonzero(stored + fixed_bytes <= room)
    state = int(inside[np.lexsort((stored[inside], errors[inside]))[0]])
    picks = {row.index: int(row.kept[0]) for row in rows if len(row.kept) == 1}
    for row, (before, chosen) in zip(reversed(open_rows), reversed(ways), strict=True):
        picks[row.index] = int(row.kept[chosen[state]])
        state = int(before[state])
    return Optimum([picks[index] for index in range(len(rows))], states)


def _undominated(stored: Bytes, errors: Errors) -> Indices:
    """Positions of sums that no other beats in bytes and error; the first of equal ones."""
    order = np.lexsort((errors, stored))
    ordered = errors[order]
    keep = np.ones(len(order), bool)
    keep[1:] = ordered[1:] < np.minimum.accumulate(ordered)[:-1]
    return order[keep]


def _hull(item: Item) -> list[int]:
    """Positions in `item.formats` on the lower convex hull, by growing bytes, falling error."""
    corner: list[int] = []
    for new in range(len(item.formats)):
        if corner and item.errors[new] >= item.errors[corner[-1]]:
            continue
        if corner and item.weight_bytes[new] == item.weight_bytes[corner[-1]]:
            corner.pop()
        while len(corner) > 1 and _rate(item, corner[-2], corner[-1]) <= _rate(
            item, corner[-1], new
        ):
            corner.pop()
        corner.append(new)
    return corner


def _rate(item: Item, here: int, there: int) -> float:
    """Error saved per byte added."""
    saved = float(item.errors[here] - item.errors[there])
    return saved / int(item.weight_bytes[there] - item.weight_bytes[here])


def _fill(items: Sequence[Item], hulls: Sequence[list[int]], room: int) -> tuple[float, list[int]]:
    """Steps along the hulls by falling rate while they fit.

    Returns:
        The rate of the first step that does not fit, 0 if all do; and the position of every item
        after all steps that fit.
    """
    steps = [
        (-_rate(items[j], here, there), j, there)
        for j, hull in enumerate(hulls)
        for here, there in pairwise(hull)
    ]
    steps.sort()
    at = [hull[0] for hull in hulls]
    stopped: set[int] = set()
    rate = 0.0
    for slope, j, there in steps:
        growth = int(items[j].weight_bytes[there] - items[j].weight_bytes[at[j]])
        if j in stopped or growth > room:
            rate = rate or -slope
            stopped.add(j)
            continue
        room -= growth
        at[j] = there
    return rate, at
