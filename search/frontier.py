"""Frontier: every (bytes, error) pair that no assignment beats, or a curve with known gaps."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from mixq.errors import InfeasibleError
from mixq.formats import Format
from mixq.frames import data_frame
from mixq.search.exact.fill import Curve, fill
from mixq.search.exact.hull import run_hull
from mixq.search.exact.program import Program, run_program
from mixq.search.exact.stage import Bytes, Errors, Indices, Stage
from mixq.search.problem import MAX_BYTES, Problem
from mixq.search.view import POINT_COLUMNS, frontier_html, point_rows

if TYPE_CHECKING:
    from pandas import DataFrame

MAX_STATES: Final = 16_000_000
"""Partial sums formed for one item, before the frontier becomes a curve."""


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
        exact: whether every undominated point is here. If not, these are the corners of the lower
            convex hull and points between them: each is optimal at its own bytes, and `gaps`
            bounds the rest.
        proven: bytes up to which nothing beats each point, shape (points,).
        states: partial sums that were formed.
        solve_s: CPU time that it took [s].
    """

    problem: Problem
    weight_bytes: Bytes
    errors: Errors
    exact: bool
    proven: Bytes
    states: int
    solve_s: float
    _corners: tuple[Bytes, Errors]
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
        return self.problem.picked(self._trace.picks(self._origin[[index]])[0])

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

        Where the point in these bytes is proven to be best, that is its own error; elsewhere the
        edge of the hull: the linear relaxation of the multiple-choice knapsack (Sinha, Zoltners,
        "The multiple-choice knapsack problem", Operations Research 27(3), 1979).
        """
        best = self.best_under(max_bytes)
        if max_bytes <= self.proven[best.index]:
            return best.error
        return min(float(np.interp(max_bytes, *self._corners)), best.error)

    def gap_under(self, max_bytes: int) -> float:
        """(error - lower bound) / error of `best_under(max_bytes)`; 0 where exact."""
        error = self.best_under(max_bytes).error
        return (error - self.lower_bound(max_bytes)) / error if error > 0 else 0.0

    def to_dict(self) -> dict[str, object]:
        """All points as lists of numbers by `mixq.search.view.POINT_COLUMNS`.

        `frontier.json` of a run holds a thinned selection of them with their formats, beside the
        measured plans.
        """
        columns = zip(*point_rows(self), strict=True)
        named = {name: list(c) for name, c in zip(POINT_COLUMNS, columns, strict=True)}
        return {"exact": self.exact, "points": len(self), **named}

    def to_pandas(self) -> DataFrame:
        """One row per point, the smallest first; `assignment(position)` has its formats.

        The columns are `mixq.search.view.POINT_COLUMNS`, in this order in every version.

        Raises:
            MissingExtraError: if pandas is not installed.
        """
        return data_frame(POINT_COLUMNS, point_rows(self))

    def _repr_html_(self) -> str:
        return frontier_html(self)

    @property
    def gaps(self) -> Errors:
        """The largest `gap_under` from each point up to the next one, shape (points,)."""
        most = np.append(self.weight_bytes[1:] - 1, self.weight_bytes[-1:])
        bounds = np.minimum(np.interp(most, *self._corners), self.errors)
        open_ = (self.proven < most) & (self.errors > 0)
        gaps = np.zeros(len(self))
        gaps[open_] = (self.errors - bounds)[open_] / self.errors[open_]
        return gaps


def build_frontier(problem: Problem, *, max_states: int = MAX_STATES) -> Frontier:
    """The frontier of a problem: exact, or a curve around its hull where that grows too large.

    For example, of a table that was measured before (`Layout.problem`), or of any other numbers:

        >>> frontier = build_frontier(problem)
        >>> point = frontier.best_under(4_000_000)
        >>> frontier.assignment(point.index), frontier.gaps.max()

    Partial sums are compared as they are rounded, so where two assignments' errors agree to
    `len(problem.items) * 2**-52` relative, the frontier may hold either.

    Args:
        problem: units and their choices.
        max_states: partial sums that may be formed for one item, some 50 bytes each.
    """
    start = time.process_time()
    stages = [Stage.of(item) for item in problem.items]
    found: Program | Curve | None = run_program(problem, stages, max_states)
    exact = found is not None
    if found is None:
        hull = run_hull(problem, stages)
        found = fill(problem, hull)
        corners = hull.weight_bytes, hull.errors
    else:
        corners = found.weight_bytes, found.errors
    # Rounding may have kept two sums apart that are equal.
    least = np.minimum.accumulate(found.errors)[:-1]
    origin = np.flatnonzero(found.errors < np.append(np.inf, least))
    sizes = found.weight_bytes[origin] + problem.other_bytes
    proven = np.append(sizes[1:] - 1, MAX_BYTES)
    if isinstance(found, Curve):
        proven[:-1] = found.proven[origin[:-1]] + problem.other_bytes
    return Frontier(
        problem=problem,
        weight_bytes=sizes,
        errors=found.errors[origin],
        exact=exact,
        proven=proven,
        states=found.states,
        solve_s=time.process_time() - start,
        _corners=(corners[0] + problem.other_bytes, corners[1]),
        _trace=found.trace,
        _origin=origin,
    )
