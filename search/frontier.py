"""Frontier: every (bytes, error) pair that no assignment beats, by dynamic programming.

One item after another, every kept partial sum is extended by every format and the dominated sums
are dropped (Nemhauser, Ullmann, "Discrete dynamic programming and capital allocation",
Management Science 15(9), 1969). Bytes are integers, so nothing is rounded there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from mixq.errors import InfeasibleError
from mixq.formats import Format
from mixq.search.problem import Problem
from mixq.search.stage import Bytes, Errors, Indices, Stage, undominated

MAX_STATES: Final = 16_000_000
"""Partial sums formed for one item, before the frontier becomes its convex hull."""

MAX_STORED: Final = 100_000_000
"""Partial sums remembered over all items for the way back, four bytes each."""

_CHUNK: Final = 1 << 21
"""Numbers of one table while errors are summed afresh: 16 MiB."""


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
    program = _dynamic_program(stages, max_states)
    weight_bytes, trace = program or _hull(stages)
    return _measured(problem, weight_bytes, trace, exact=program is not None)


@dataclass(frozen=True)
class _ProgramTrace:
    """The way back through the dynamic program.

    `origins[j][s]` is (pick in stage j) x (states before stage j) + (state before stage j).
    """

    stages: list[Stage]
    origins: list[NDArray[np.uint32]]

    def picks(self, points: Indices) -> Indices:
        states = points
        columns = []
        for j in reversed(range(len(self.stages))):
            before = len(self.origins[j - 1]) if j else 1
            pick, states = np.divmod(self.origins[j][states].astype(np.int64), before)
            columns.append(self.stages[j].kept[pick])
        return np.stack(columns[::-1], axis=1)


def _dynamic_program(stages: list[Stage], max_states: int) -> tuple[Bytes, _Trace] | None:
    """Bytes of every undominated sum and the way back; None if there are too many."""
    weight_bytes, errors = np.zeros(1, np.int64), np.zeros(1)
    origins: list[NDArray[np.uint32]] = []
    stored = 0
    for stage in stages:
        # The way back must also fit in 32 bits.
        if len(weight_bytes) * len(stage.kept) > min(max_states, 2**32):
            return None
        tried_bytes = np.add.outer(stage.weight_bytes, weight_bytes).ravel()
        tried_errors = np.add.outer(stage.errors, errors).ravel()
        origin = undominated(tried_bytes, tried_errors)
        stored += len(origin)
        if stored > MAX_STORED:
            return None
        weight_bytes, errors = tried_bytes[origin], tried_errors[origin]
        origins.append(origin.astype(np.uint32))
    return weight_bytes, _ProgramTrace(stages, origins)


@dataclass(frozen=True)
class _HullTrace:
    """The way back through the hull: `steps[j][k]` is the point at which item j takes its k+1st.

    `corners[j]` are the positions in `item.formats` that lie on item j's own hull.
    """

    corners: list[Indices]
    steps: list[Indices]

    def picks(self, points: Indices) -> Indices:
        columns = [
            corners[np.searchsorted(steps, points, side="right")]
            for corners, steps in zip(self.corners, self.steps, strict=True)
        ]
        return np.stack(columns, axis=1)


def _hull(stages: list[Stage]) -> tuple[Bytes, _Trace]:
    """Bytes of the points of the lower convex hull and the way back.

    The hull of a sum is the sum of the hulls: from every item at its smallest, take the steps of
    all items in order of error saved per byte.
    """
    corners = [stage.convex() for stage in stages]
    moves = []
    for j, (stage, corner) in enumerate(zip(stages, corners, strict=True)):
        for here, there in pairwise(corner):
            growth = int(stage.weight_bytes[there] - stage.weight_bytes[here])
            moves.append((stage.rate(here, there), j, growth))
    # Stable, so that the steps of one item, whose rates never grow, keep their order.
    moves.sort(key=lambda move: -move[0])
    start = sum(int(stage.weight_bytes[0]) for stage in stages)
    growths = np.array([start, *(growth for _, _, growth in moves)], np.int64)
    steps: list[list[int]] = [[] for _ in stages]
    for position, (_, j, _) in enumerate(moves):
        steps[j].append(position + 1)
    return np.cumsum(growths), _HullTrace(
        [stage.kept[corner] for stage, corner in zip(stages, corners, strict=True)],
        [np.array(step, np.int64) for step in steps],
    )


def _measured(problem: Problem, weight_bytes: Bytes, trace: _Trace, *, exact: bool) -> Frontier:
    """The frontier with every error summed afresh, so that it equals `Problem.evaluate`."""
    columns = [
        (j, np.array([problem.choice(unit, fmt).error for fmt in item.formats]))
        for j, item in enumerate(problem.items)
        for unit in item.units
    ]
    errors = np.empty(len(weight_bytes))
    rows = max(1, _CHUNK // len(columns))
    for start in range(0, len(weight_bytes), rows):
        points = np.arange(start, min(start + rows, len(weight_bytes)))
        picks = trace.picks(points)
        table = np.stack([values[picks[:, j]] for j, values in columns], axis=1)
        errors[points] = [math.fsum(row) for row in table]
    # Rounding may have kept two sums apart that are equal.
    origin = np.flatnonzero(errors < np.append(np.inf, np.minimum.accumulate(errors)[:-1]))
    return Frontier(
        problem, weight_bytes[origin] + problem.other_bytes, errors[origin], exact, trace, origin
    )
