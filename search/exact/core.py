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
from itertools import accumulate, pairwise
from typing import Final

import numpy as np

from mixq.search.exact.stage import Bytes, Errors, Indices, Stage, undominated
from mixq.search.problem import Problem

MOST_STATES: Final = 4_000_000
"""Partial sums of one item; with more the search is given up."""
MOST_WORK: Final = 200_000_000
"""Partial sums of all items, some 20 ns each."""
SLACK: Final = 1e-12
"""Of the largest sum that the bound is made of: sums in another order differ by less, and no
optimum may be dropped for that."""


@dataclass(frozen=True, eq=False)
class Optimum:
    """The plan of least error within the bytes, and of the fewest bytes among equal ones.

    Attributes:
        picks: position in `item.formats` for every item, shape (items,).
        states: partial sums that were formed to prove it.
    """

    picks: Indices
    states: int


@dataclass(frozen=True, eq=False)
class _Row:
    """The formats of an item that may still be in the optimum.

    Attributes:
        kept: their positions among the formats of the core.
        light: the one of least reduced cost, as a position in `kept`.
    """

    kept: Indices
    weight_bytes: Bytes
    errors: Errors
    reduced: Errors
    light: int


@dataclass(frozen=True, eq=False)
class Core:
    """A problem made ready for many limits on its bytes.

    Attributes:
        other_bytes: that no choice changes.
        first: position of each item's smallest format among all undominated ones, (items,).
        owner: item of each undominated format, shape (formats,).
        kept: its position in `item.formats`, shape (formats,).
        weight_bytes, errors: of each undominated format, shape (formats,).
        steps: the formats that steps along the items' hulls lead to, by falling rate, (steps,).
        rates: error that each step saves per byte, shape (steps,).
        growths: bytes that it adds, shape (steps,).
    """

    other_bytes: int
    first: Indices
    owner: Indices
    kept: Indices
    weight_bytes: Bytes
    errors: Errors
    steps: Indices
    rates: Errors
    growths: Bytes

    @classmethod
    def of(cls, problem: Problem) -> Core:
        """Ties and pins are in the problem's items."""
        stages = [Stage.of(item) for item in problem.items]
        sizes = np.array([len(stage.kept) for stage in stages])
        first = np.cumsum(sizes) - sizes
        moves = [
            (
                start + there,
                stage.rate(here, there),
                stage.weight_bytes[there] - stage.weight_bytes[here],
            )
            for stage, start in zip(stages, first.tolist(), strict=True)
            for here, there in pairwise(stage.convex())
        ]
        steps = np.array([move[0] for move in moves], np.int64)
        rates = np.array([move[1] for move in moves], np.float64)
        growths = np.array([move[2] for move in moves], np.int64)
        # Stable, so that the steps of one item, whose rates never grow, keep their order.
        order = np.argsort(-rates, kind="stable")
        return cls(
            other_bytes=problem.other_bytes,
            first=first,
            owner=np.repeat(np.arange(len(stages)), sizes),
            kept=np.concatenate([stage.kept for stage in stages]),
            weight_bytes=np.concatenate([stage.weight_bytes for stage in stages]),
            errors=np.concatenate([stage.errors for stage in stages]),
            steps=steps[order],
            rates=rates[order],
            growths=growths[order],
        )

    @property
    def smallest_bytes(self) -> int:
        """Of everything that is stored, at least."""
        return self.other_bytes + int(self.weight_bytes[self.first].sum())

    def solve(self, weight_bytes: int, *, most_work: int = MOST_WORK) -> Optimum | None:
        """The optimum within a limit on all bytes.

        Args:
            weight_bytes: of everything that is stored, at most.
            most_work: partial sums that may be formed.

        Returns:
            None if nothing fits or there are too many sums.
        """
        spare = weight_bytes - self.smallest_bytes
        if spare < 0:
            return None
        rate, at = self._fill(spare)
        if rate == 0:  # every item has its least error
            return Optimum(self.kept[at], 0)
        room = weight_bytes - self.other_bytes
        values = self.errors + rate * self.weight_bytes
        least = np.minimum.reduceat(values, self.first)
        bound = float(least.sum()) - rate * room
        best = float(self.errors[at].sum())
        slack = SLACK * (best + rate * room)
        reduced = values - least[self.owner]
        open_ = bound + reduced <= best + slack
        several = np.add.reduceat(open_, self.first, dtype=np.int64) > 1
        fixed = np.flatnonzero(open_ & ~several[self.owner])
        ends = np.append(self.first[1:], len(self.owner))
        rows = []
        for item in np.flatnonzero(several):
            start = int(self.first[item])
            kept = start + np.flatnonzero(open_[start : ends[item]])
            rows.append(
                _Row(
                    kept,
                    self.weight_bytes[kept],
                    self.errors[kept],
                    reduced[kept],
                    int(np.argmin(reduced[kept])),
                )
            )
        # What is nearly decided comes last: by then the best plan is known better.
        rows.sort(key=lambda row: float(np.partition(row.reduced, 1)[1]))
        known = int(self.weight_bytes[fixed].sum()), float(self.errors[fixed].sum())
        found = _search(rows, room, known, bound, best + slack, slack, most_work)
        if found is None:
            return None
        chosen, states = found
        picks = np.empty(len(self.first), np.int64)
        for formats in (fixed, chosen):
            picks[self.owner[formats]] = self.kept[formats]
        return Optimum(picks, states)

    def _fill(self, spare: int) -> tuple[float, Indices]:
        """Steps along the hulls by falling rate while they fit in the spare bytes.

        Returns:
            The rate of the first step that does not fit, 0 if all do; and the format of every
            item after all steps that fit, shape (items,).
        """
        taken = np.cumsum(self.growths)
        count = int(np.searchsorted(taken, spare, side="right"))
        at = self.first.copy()
        # Of an item's steps the last one counts, and the last assignment.
        at[self.owner[self.steps[:count]]] = self.steps[:count]
        if count == len(self.steps):
            return 0.0, at
        spare -= int(taken[count - 1]) if count else 0
        stopped: set[int] = set()
        rest = self.steps[count:]
        for step, owner, growth in zip(
            rest.tolist(), self.owner[rest].tolist(), self.growths[count:].tolist(), strict=True
        ):
            if owner in stopped or growth > spare:
                stopped.add(owner)
            else:
                spare -= growth
                at[owner] = step
        return float(self.rates[count]), at


def _search(
    rows: Sequence[_Row], room: int, known: tuple[int, float], bound: float, best: float,
    slack: float, most_work: int,
) -> tuple[Indices, int] | None:  # fmt: skip
    """Dynamic programming over the rows, in their order.

    Args:
        rows: items that are not decided.
        room: bytes for all items.
        known: bytes and errors of those that are.
        bound: no plan has less error.
        best: error of a plan that is known, or a little more.
        slack: sums of errors are off by less.
        most_work: sums that may be formed.

    Returns:
        Positions of the formats of all rows, and the number of sums; None if these are too many.
    """
    stored, errors, above = np.array([known[0]]), np.array([known[1]]), np.zeros(1)
    # What all later rows take at least, and what they take in the plan of the multiplier.
    least_after = _after([int(row.weight_bytes.min()) for row in rows])
    bytes_after = _after([int(row.weight_bytes[row.light]) for row in rows])
    errors_after = _after([float(row.errors[row.light]) for row in rows])
    ways: list[Indices] = []
    states = 0
    for step, row in enumerate(rows):
        states += len(stored) * len(row.kept)
        if len(stored) * len(row.kept) > MOST_STATES or states > most_work:
            return None
        stored = np.add.outer(stored, row.weight_bytes).ravel()
        errors = np.add.outer(errors, row.errors).ravel()
        above = np.add.outer(above, row.reduced).ravel()
        rest = errors + errors_after[step]
        fits = stored + bytes_after[step] <= room
        if fits.any():
            best = min(best, float(rest[fits].min()) + slack)
        kept = np.flatnonzero((stored + least_after[step] <= room) & (bound + above <= best))
        kept = kept[undominated(stored[kept], errors[kept])]
        ways.append(kept)
        stored, errors, above = stored[kept], errors[kept], above[kept]
    inside = np.flatnonzero(stored <= room)
    state = int(inside[np.lexsort((stored[inside], errors[inside]))[0]])
    chosen = []
    for row, way in zip(reversed(rows), reversed(ways), strict=True):
        state, pick = divmod(int(way[state]), len(row.kept))
        chosen.append(int(row.kept[pick]))
    return np.array(chosen, np.int64), states


def _after(values: Sequence[float]) -> Sequence[float]:
    """Sums of all later values, at each position."""
    return [*accumulate(reversed(values[1:]), initial=0)][::-1]
