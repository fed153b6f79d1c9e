"""Fewest: the smallest plan within a limit on the added error, proven by the core.

The least error within so many bytes never grows with the bytes, so the fewest bytes whose least
error keeps the limit are found by bisection. The line between two corners of the hull, below
which no plan lies, is where it starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from mixq.search.exact.core import SLACK, Core, Optimum
from mixq.search.problem import Problem

_FASTER: Final = 4
"""Times as far at each step up from the line, until a plan keeps the limit."""


def solve_fewest(problem: Problem, max_error: float) -> Optimum | None:
    """The plan of the fewest bytes within a limit on errors, and of the least error with these.

    Returns:
        None if no plan keeps the limit or there are too many sums.
    """
    core = Core.of(problem)
    lattice = _Lattice.of(core)
    low, high = lattice.below(core, max_error), lattice.count
    best: Optimum | None = None
    states, width = 0, 1
    while best is None or high - low > 1:
        probe = (low + high) // 2 if best else min(low + width, high)
        found = core.solve(lattice.bytes_at(probe))
        if found is None:
            return None
        states += found.states
        totals = problem.evaluate(problem.picked(found.picks))
        if totals.error <= max_error:
            best, high = found, lattice.position(totals.weight_bytes)
        elif probe == lattice.count:
            return None
        else:
            low, width = probe, width * _FASTER
    return Optimum(best.picks, states)


@dataclass(frozen=True)
class _Lattice:
    """The byte sums that plans can have: `smallest`, and up to `count` steps of `step` more."""

    smallest: int
    step: int
    count: int

    @classmethod
    def of(cls, core: Core) -> _Lattice:
        above = core.weight_bytes - core.weight_bytes[core.first][core.owner]
        step = int(np.gcd.reduce(above)) or 1
        return cls(core.smallest_bytes, step, int(core.growths.sum()) // step)

    def bytes_at(self, position: int) -> int:
        return self.smallest + position * self.step

    def position(self, weight_bytes: int) -> int:
        return (weight_bytes - self.smallest) // self.step

    def below(self, core: Core, max_error: float) -> int:
        """A position at which no plan keeps the limit; -1 if none is known."""
        saved = np.append(0.0, np.cumsum(core.rates * core.growths))
        grown = np.append(0, np.cumsum(core.growths))
        start = float(core.errors[core.first].sum())
        # Sums in another order may differ by the slack, and none of them may be passed over.
        excess = start - max_error - SLACK * start
        if excess <= 0:
            return -1
        line = float(np.interp(excess, saved, grown))
        return min(max(int(line * (1 - SLACK)) // self.step - 1, -1), self.count - 1)
