"""Fill: exact points between the corners of a hull, where these alone would promise too little.

Between two points of a curve, its plan is that of the smaller one, while the bound falls along
the edge of the hull. Where that leaves a gap, the core finds the optimum in between, and proves
that nothing beats it up to the bytes that it was allowed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

import numpy as np

from mixq.search.exact.core import Core
from mixq.search.exact.hull import Hull, HullTrace
from mixq.search.exact.stage import Bytes, Errors, Indices
from mixq.search.problem import Problem

MOST_GAP: Final = 0.02
"""Relative gap that a curve is filled to."""
EDGE: Final = 0.02
"""Share of the range of bytes at either end that is left as it is."""
MOST_SOLVES: Final = 10_000
"""Optima that are sought between the corners of one hull."""
MOST_WORK: Final = 100_000_000
"""Partial sums that may be formed for them, and a fiftieth of that for each."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Points by growing bytes, each of the least error in its bytes.

    Attributes:
        weight_bytes, errors: of the points, shape (points,).
        proven: bytes up to which nothing beats the point, shape (points,).
        states: partial sums that were formed.
    """

    weight_bytes: Bytes
    errors: Errors
    proven: Bytes
    states: int
    trace: CurveTrace


@dataclass(frozen=True, eq=False)
class CurveTrace:
    """The way back: `places` are corners of the hull and, after these, optima."""

    hull: HullTrace
    corners: int
    optima: Sequence[Indices]
    places: Indices

    def picks(self, points: Indices) -> Indices:
        """Position in `item.formats` for points of shape (n,): shape (n, items)."""
        places = self.places[points]
        picks = self.hull.picks(np.minimum(places, self.corners - 1))
        for row in np.flatnonzero(places >= self.corners):
            picks[row] = self.optima[places[row] - self.corners]
        return picks


def fill(problem: Problem, hull: Hull) -> Curve:
    """The corners of a hull, and optima between them until the gaps are small.

    Args:
        problem: units and their choices.
        hull: of its items; bytes are without `other_bytes` there and in the curve.
    """
    sizes, errors = hull.weight_bytes, hull.errors
    margin = EDGE * float(sizes[-1] - sizes[0])
    low, high = math.ceil(sizes[0] + margin), math.floor(sizes[-1] - margin)
    wide = errors[:-1] - errors[1:] > MOST_GAP * errors[:-1]
    edges = np.flatnonzero(wide & (sizes[1:] > low) & (sizes[:-1] < high))
    between = _Between(problem, hull)
    proven, added = sizes.copy(), list[_Point]()
    for edge in edges.tolist():
        start, end = (
            _Point(int(sizes[k]), float(errors[k]), int(sizes[k])) for k in (edge, edge + 1)
        )
        first, *optima = between.points(start, end, low, high)
        proven[edge] = first.proven
        added += optima
    sizes = np.append(sizes, np.array([point.weight_bytes for point in added], np.int64))
    order = np.argsort(sizes, kind="stable")
    return Curve(
        sizes[order],
        np.append(errors, [point.error for point in added])[order],
        np.append(proven, np.array([point.proven for point in added], np.int64))[order],
        between.states,
        CurveTrace(hull.trace, len(proven), [point.picks for point in added], order),
    )


@dataclass(frozen=True)
class _Point:
    """A point of the curve; `picks` are in `item.formats`, none for corners of the hull."""

    weight_bytes: int
    error: float
    proven: int
    picks: Indices = field(default_factory=lambda: np.zeros(0, np.int64), compare=False)


class _Between:
    """Finds the points between two corners of a hull."""

    def __init__(self, problem: Problem, hull: Hull) -> None:
        self.problem, self.hull = problem, hull
        self.solves, self.states = 0, 0

    @cached_property
    def core(self) -> Core:
        """Made when it is needed: hulls of many units have small gaps as they are."""
        return Core.of(self.problem)

    def points(self, start: _Point, end: _Point, low: int, high: int) -> list[_Point]:
        """`start` and what lies between it and `end`, with small gaps between `low` and `high`."""
        found: list[_Point] = []
        point, ahead = start, [end]
        stays = False
        while ahead:
            # Where nothing new was half way, the bytes below the next point decide.
            probe = self._probe(point, ahead[-1], low, high, whole=stays)
            optimum = None if probe is None else self._solve(probe)
            stays = optimum is not None and optimum.weight_bytes == point.weight_bytes
            if probe is None or optimum is None:
                found.append(point)
                point = ahead.pop()
            elif stays:
                point = replace(point, proven=probe)
            else:
                ahead.append(optimum)
        return found

    def _probe(
        self, point: _Point, after: _Point, low: int, high: int, *, whole: bool
    ) -> int | None:
        """Bytes to look at between two points; None if the gap there is small.

        The most that matter, or those where the bound is half way down, in ratio.
        """
        least, most = max(point.proven + 1, low), min(after.weight_bytes - 1, high)
        if least > most or self.solves >= MOST_SOLVES or self.states >= MOST_WORK:
            return None
        sizes, errors = self.hull.weight_bytes, self.hull.errors
        above, below = np.interp([least, most], sizes, errors).tolist()
        if point.error - below <= MOST_GAP * point.error:
            return None
        if whole:
            return most
        middle = np.interp(math.sqrt(above * below), errors[::-1], sizes[::-1])
        return min(max(int(middle), least), most)

    def _solve(self, weight_bytes: int) -> _Point | None:
        """The optimum in so many bytes; None if it takes too many sums."""
        other, most_work = self.problem.other_bytes, MOST_WORK // 50
        self.solves += 1
        optimum = self.core.solve(weight_bytes + other, most_work=most_work)
        self.states += most_work if optimum is None else optimum.states
        if optimum is None:
            return None
        totals = self.problem.evaluate(self.problem.picked(optimum.picks))
        return _Point(totals.weight_bytes - other, totals.error, weight_bytes, optimum.picks)
