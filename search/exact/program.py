"""Program: every undominated pair of bytes and error, by dynamic programming.

One item after another, every kept partial sum is extended by every format and the dominated sums
are dropped (Nemhauser, Ullmann, "Discrete dynamic programming and capital allocation",
Management Science 15(9), 1969). Bytes are integers, so nothing is rounded there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mixq.search.choice import Item
from mixq.search.exact.stage import Bytes, Errors, Indices, Stage, undominated
from mixq.search.exact.sums import rounded, two_sum
from mixq.search.problem import Problem

MAX_STORED: Final = 100_000_000
"""Partial sums remembered over all items for the way back, four bytes each."""


@dataclass(frozen=True, eq=False)
class Program:
    """The points, and the way back from them to formats.

    Attributes:
        weight_bytes: of the items, shape (points,).
        errors: correctly rounded sums of the units' errors, shape (points,).
        states: partial sums that were formed.
    """

    weight_bytes: Bytes
    errors: Errors
    states: int
    trace: ProgramTrace


@dataclass(frozen=True, eq=False)
class ProgramTrace:
    """The way back through the stages.

    `origins[j][s]` is (pick in stage j) x (states before stage j) + (state before stage j).
    """

    stages: Sequence[Stage]
    origins: list[NDArray[np.uint32]]

    def picks(self, points: Indices) -> Indices:
        """Position in `item.formats` for points of shape (n,): shape (n, items)."""
        states = points
        columns = []
        for j in reversed(range(len(self.stages))):
            before = len(self.origins[j - 1]) if j else 1
            pick, states = np.divmod(self.origins[j][states].astype(np.int64), before)
            columns.append(self.stages[j].kept[pick])
        return np.stack(columns[::-1], axis=1)


def run_program(problem: Problem, stages: Sequence[Stage], max_states: int) -> Program | None:
    """All undominated sums; None if there are too many.

    Args:
        problem: units and their choices.
        stages: of its items.
        max_states: partial sums that may be formed for one item.
    """
    weight_bytes, errors, rests = np.zeros(1, np.int64), np.zeros(1), np.zeros(1)
    origins: list[NDArray[np.uint32]] = []
    stored, states = 0, 0
    for item, stage in zip(problem.items, stages, strict=True):
        before = len(weight_bytes)
        formed = before * len(stage.kept)
        # The way back must also fit in 32 bits.
        if formed > min(max_states, 2**32):
            return None
        tried_bytes = np.add.outer(stage.weight_bytes, weight_bytes).ravel()
        tried_errors = np.add.outer(stage.errors, errors).ravel()
        origin = undominated(tried_bytes, tried_errors)
        # Further items hardly make sums fewer, so what they will need is known early.
        if stored + len(origin) * (len(stages) - len(origins)) > MAX_STORED:
            return None
        pick, state = np.divmod(origin, before)
        rests = rests[state] + two_sum(errors[state], stage.errors[pick])[1]
        if len(item.units) > 1:
            rests += _rests(problem, item)[stage.kept][pick]
        weight_bytes, errors = tried_bytes[origin], tried_errors[origin]
        origins.append(origin.astype(np.uint32))
        stored, states = stored + len(origin), states + formed
    trace = ProgramTrace(stages, origins)
    # Two additions of rests for each item, and the rounded rest of a tie.
    errors, certain = rounded(errors, rests, 3 * len(stages))
    doubtful = np.flatnonzero(~certain)
    errors[doubtful] = _afresh(problem, trace, doubtful)
    return Program(weight_bytes, errors, states, trace)


def _rests(problem: Problem, item: Item) -> Errors:
    """What the rounded error of a tie leaves out of its units' errors, shape (formats,)."""
    rows = [
        [problem.choice(unit, fmt).error for unit in item.units] + [-float(error)]
        for fmt, error in zip(item.formats, item.errors, strict=True)
    ]
    return np.array([math.fsum(row) for row in rows])


def _afresh(problem: Problem, trace: ProgramTrace, points: Indices) -> list[float]:
    """Errors of points, summed over units as `Problem.evaluate` does."""
    return [
        math.fsum(
            problem.choice(unit, item.formats[pick]).error
            for item, pick in zip(problem.items, trace.picks(points[[k]])[0], strict=True)
            for unit in item.units
        )
        for k in range(len(points))
    ]
