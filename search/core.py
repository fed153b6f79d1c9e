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

from mixq.search.problem import Problem
from mixq.search.stage import Bytes, Errors, Indices, Stage, undominated

MOST_STATES: Final = 4_000_000
"""Partial sums of one item; with more the search is given up."""
SLACK: Final = 1e-12
"""Of the largest sum that the bound is made of: sums in another order differ by less, and no
optimum may be dropped for that."""


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
    stages = [Stage.of(item) for item in problem.items]
    room = weight_bytes - problem.other_bytes
    smallest = sum(int(stage.weight_bytes[0]) for stage in stages)
    if smallest > room:
        return None
    rate, at = _fill(stages, room - smallest)
    if rate == 0:  # every item has its least error
        return Optimum([int(stage.kept[k]) for stage, k in zip(stages, at, strict=True)], 0)
    values = [stage.errors + rate * stage.weight_bytes for stage in stages]
    bound = sum(float(value.min()) for value in values) - rate * room
    best = sum(float(stage.errors[k]) for stage, k in zip(stages, at, strict=True))
    slack = SLACK * (best + rate * room)
    rows = []
    for index, (stage, value) in enumerate(zip(stages, values, strict=True)):
        reduced = value - value.min()
        open_ = np.flatnonzero(bound + reduced <= best + slack)
        rows.append(
            _Row(
                index=index,
                kept=stage.kept[open_],
                weight_bytes=stage.weight_bytes[open_],
                errors=stage.errors[open_],
                reduced=reduced[open_],
                light=int(np.argmin(reduced[open_])),
            )
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
        kept = kept[undominated(stored[kept], errors[kept])]
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


def _fill(stages: Sequence[Stage], room: int) -> tuple[float, list[int]]:
    """Steps along the hulls by falling rate while they fit.

    Returns:
        The rate of the first step that does not fit, 0 if all do; and the position of every stage
        after all steps that fit.
    """
    steps = [
        (-stage.rate(here, there), j, there)
        for j, stage in enumerate(stages)
        for here, there in pairwise(stage.convex())
    ]
    steps.sort()
    at = [0] * len(stages)
    stopped: set[int] = set()
    rate = 0.0
    for slope, j, there in steps:
        growth = int(stages[j].weight_bytes[there] - stages[j].weight_bytes[at[j]])
        if j in stopped or growth > room:
            rate = rate or -slope
            stopped.add(j)
            continue
        room -= growth
        at[j] = there
    return rate, at
