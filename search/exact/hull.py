"""Hull: the lower convex hull of the points that no assignment beats.

The hull of a sum is the sum of the hulls: from every item at its smallest, take the steps of all
items in order of error saved per byte (Sinha, Zoltners, "The multiple-choice knapsack problem",
Operations Research 27(3), 1979).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from mixq.search.choice import Item
from mixq.search.exact.stage import Bytes, Errors, Indices, Stage
from mixq.search.exact.sums import running
from mixq.search.problem import Problem


@dataclass(frozen=True, eq=False)
class Hull:
    """The points, and the way back from them to formats.

    Attributes:
        weight_bytes: of the items, shape (points,).
        errors: correctly rounded sums of the units' errors, shape (points,).
    """

    weight_bytes: Bytes
    errors: Errors
    trace: HullTrace


@dataclass(frozen=True, eq=False)
class HullTrace:
    """The way back: `steps[j][k]` is the point at which item j takes its k+1st corner.

    `corners[j]` are the positions in `item.formats` that lie on item j's own hull.
    """

    corners: list[Indices]
    steps: list[Indices]

    def picks(self, points: Indices) -> Indices:
        """Position in `item.formats` for points of shape (n,): shape (n, items)."""
        columns = [
            corners[np.searchsorted(steps, points, side="right")]
            for corners, steps in zip(self.corners, self.steps, strict=True)
        ]
        return np.stack(columns, axis=1)


def run_hull(problem: Problem, stages: Sequence[Stage]) -> Hull:
    """The corners of the hull by growing bytes; on its edges lie corners of equal rate."""
    corners = [stage.convex() for stage in stages]
    moves = []
    for j, (stage, corner) in enumerate(zip(stages, corners, strict=True)):
        for k, (here, there) in enumerate(pairwise(corner)):
            growth = int(stage.weight_bytes[there] - stage.weight_bytes[here])
            moves.append((stage.rate(here, there), j, k, growth))
    # Stable, so that the steps of one item, whose rates never grow, keep their order.
    moves.sort(key=lambda move: -move[0])
    start = sum(int(stage.weight_bytes[0]) for stage in stages)
    steps: list[list[int]] = [[] for _ in stages]
    for position, (_, j, _, _) in enumerate(moves):
        steps[j].append(position + 1)
    kept = [stage.kept[corner] for stage, corner in zip(stages, corners, strict=True)]
    terms = [
        [_unit_errors(problem, item, int(pick)) for pick in picks]
        for item, picks in zip(problem.items, kept, strict=True)
    ]
    return Hull(
        np.cumsum(np.array([start, *(growth for _, _, _, growth in moves)], np.int64)),
        running(
            [error for rows in terms for error in rows[0]],
            [(terms[j][k], terms[j][k + 1]) for _, j, k, _ in moves],
        ),
        HullTrace(kept, [np.array(step, np.int64) for step in steps]),
    )


def _unit_errors(problem: Problem, item: Item, pick: int) -> list[float]:
    """Errors of an item's units in one of its formats."""
    if len(item.units) == 1:
        return [float(item.errors[pick])]
    return [problem.choice(unit, item.formats[pick]).error for unit in item.units]
