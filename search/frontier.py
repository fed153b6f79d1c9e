"""Frontier: every (bytes, error) pair that no assignment beats, or the convex hull of these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from mixq.errors import InfeasibleError
from mixq.formats import Format
from mixq.search.hull import run_hull
from mixq.search.problem import Problem
from mixq.search.program import run_program
from mixq.search.stage import Bytes, Errors, Indices, Stage

MAX_STATES: Final = 16_000_000
"""Partial sums formed for one item, before the frontier becomes its convex hull."""


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a frontier: its position, its bytes and its error."""

    index: int
    weight_bytes: int
    error: float


class _Trace(Protocol):
    """Finds the way back from points to formats."""

    def picks(self, points: Indices) -> Indices:
        """Position in `item.formats` for points of shape (n,): shape (n, items)."""
        ...


@dataclass(frozen=True, eq=False)
class Frontier:
    """Points in order of growing bytes and falling error, both strictly.

    Attributes:
        problem: what was solved; its latencies play no part here.
        weight_bytes: bytes of everything that is stored, shape (points,).
        errors: correctly rounded sums of the units' errors, shape (points,).
        exact: whether every undominated point is here. If not, these are the points of the lower
            convex hull: each is optimal at its own bytes, and `gap_under` bounds the rest.
    """

    problem: Problem
    weight_bytes: Bytes
    errors: Errors
    exact: bool
    _trace: _Trace
    _origin: Indices

    def __len__(self) -> int:
        """Number of points."""
        return len(self.weight_bytes)

    def point(self, index: int) -> Point:
        """The point at a position; negative ones count from the end."""
        index = range(len(self))[index]
        return Point(index, int(self.weight_bytes[index]), float(self.errors[index]))

    def assignment(self, index: int) -> dict[str, Format]:
        """Unit -> format of the point at a position, in the order of the problem's units."""
        picks = self._trace.picks(self._origin[[index]])[0]
        chosen: dict[str, Format] = {}
        for item, pick in zip(self.problem.items, picks, strict=True):
            chosen.update(dict.fromkeys(item.units, item.formats[int(pick)]))
        return {unit: chosen[unit] for unit in self.problem.choices}

    def best_under(self, max_bytes: int) -> Point:
        """The point of least error within `max_bytes`; of those, the smallest.

        Raises:
            InfeasibleError: if no point is that small.
        """
        index = int(np.searchsorted(self.weight_bytes, max_bytes, side="right")) - 1
        if index < 0:
            low, high = int(self.weight_bytes[0]), int(self.weight_bytes[-1])
            raise InfeasibleError(
                f"no assignment fits in {max_bytes} bytes, the smallest takes {low}; allow more",
                {"weight_bytes": f"{low} to {high}"},
            )
        return self.point(index)

    def smallest_with(self, max_error: float) -> Point:
        """The point of fewest bytes whose error is at most `max_error`.

        Raises:
            InfeasibleError: if every point has a larger error.
        """
        index = int(np.searchsorted(-self.errors, -max_error, side="left"))
        if index == len(self):
            low, high = float(self.errors[-1]), float(self.errors[0])
            raise InfeasibleError(
                f"no assignment has an error of {max_error:g} or less, the least is {low:g}; "
                "allow more",
                {"error": f"{low:g} to {high:g}"},
            )
        return self.point(index)

    def lower_bound(self, max_bytes: int) -> float:
        """No assignment within `max_bytes` has a smaller error.

        An exact frontier answers with its own point, a hull with the line between its two
        neighbours: the linear relaxation of the multiple-choice knapsack (Sinha, Zoltners,
        "The multiple-choice knapsack problem", Operations Research 27(3), 1979).
        """
        best = self.best_under(max_bytes)
        if self.exact or best.index == len(self) - 1:
            return best.error
        after = self.point(best.index + 1)
        share = (max_bytes - best.weight_bytes) / (after.weight_bytes - best.weight_bytes)
        return best.error + share * (after.error - best.error)

    def gap_under(self, max_bytes: int) -> float:
        """(error - lower bound) / error of `best_under(max_bytes)`; 0 where exact."""
        error = self.best_under(max_bytes).error
        return (error - self.lower_bound(max_bytes)) / error if error > 0 else 0.0


def build_frontier(problem: Problem, *, max_states: int = MAX_STATES) -> Frontier:
    """The frontier of a problem: exact, or its convex hull where that grows too large.

    Partial sums are compared as they are rounded, so where two assignments' errors agree to
    `len(problem.items) * 2**-52` relative, the frontier may hold either.

    Args:
        problem: units and their choices.
        max_states: partial sums that may be formed for one item, some 50 bytes each.
    """
    stages = [Stage.of(item) for item in problem.items]
    program = run_program(problem, stages, max_states)
    found = program or run_hull(problem, stages)
    # Rounding may have kept two sums apart that are equal.
    least = np.minimum.accumulate(found.errors)[:-1]
    origin = np.flatnonzero(found.errors < np.append(np.inf, least))
    return Frontier(
        problem,
        found.weight_bytes[origin] + problem.other_bytes,
        found.errors[origin],
        program is not None,
        found.trace,
        origin,
    )
