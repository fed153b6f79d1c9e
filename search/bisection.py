"""Bisection of the size: the smallest plan that measuring finds good enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from mixq.search.choose import Accept
from mixq.search.frontier import Frontier
from mixq.search.session import Session
from mixq.search.trials import Proposal, Trial

STAGE: Final = "judging plans"
STEPS: Final = 8
"""The bytes of the answer are within 1/2^STEPS of the range between smallest and largest plan."""
LOOKS: Final = (1 / 64, 1 / 32)
"""Shares of that range by which two more looks are taken below the answer, since a metric of few
samples may fail one plan and pass the next smaller one."""


def bisect_size(
    session: Session, accept: Accept, frontier: Frontier, plain: Sequence[Trial] = ()
) -> list[Trial]:
    """The plans measured on the way to the smallest one that `accept` takes.

    Bisects the points of the frontier by their bytes, no point twice. If what is judged falls as
    the bytes grow, the smallest accepted trial is the smallest such plan there is, to within a
    step; in any case it is one that is accepted. The largest plan is judged first: if that is not
    accepted, it is the only one.

    Args:
        session: measures plans.
        accept: whether a trial keeps all demands; may be dear, so it is asked once per trial.
        frontier: of the problem.
        plain: plans that are measured in any case; where one is accepted, only smaller points of
            the frontier are looked at.
    """
    return _Bisection(session, accept, frontier).run(plain)


class _Bisection:
    def __init__(self, session: Session, accept: Accept, frontier: Frontier) -> None:
        self._session = session
        self._accept = accept
        self._frontier = frontier
        self._sizes = frontier.weight_bytes
        self._measured: dict[int, Trial | None] = {}

    def run(self, plain: Sequence[Trial]) -> list[Trial]:
        if self._passes(len(self._sizes) - 1):
            self._bisect(plain)
        total = STEPS + len(LOOKS) + 1
        self._session.progress(STAGE, total, total)
        return [trial for trial in self._measured.values() if trial is not None]

    def _bisect(self, plain: Sequence[Trial]) -> None:
        sizes, low, high = self._sizes, -1, len(self._sizes) - 1
        best = int(sizes[high])
        for trial in sorted(plain, key=lambda trial: trial.totals.weight_bytes):
            if trial.totals.weight_bytes < best and self._accept(trial):
                best = trial.totals.weight_bytes
                high = int(np.searchsorted(sizes, best))
                break
        for _ in range(STEPS):
            if high - low < 2:  # nothing lies between what fails and what passes
                break
            middle = (int(sizes[low + 1]) + int(sizes[high - 1])) / 2
            index = int(np.searchsorted(sizes, middle))
            if self._passes(index):
                high, best = index, int(sizes[index])
            else:
                low = index
        for share in LOOKS:
            below = best - share * float(sizes[-1] - sizes[0])
            index = int(np.searchsorted(sizes, below, side="right")) - 1
            if index >= 0 and index not in self._measured and self._passes(index):
                break

    def _passes(self, index: int) -> bool:
        """Whether a point of the frontier, measured as a whole, is accepted."""
        total = STEPS + len(LOOKS) + 1
        self._session.progress(STAGE, len(self._measured), total)
        name = f"least error in {int(self._sizes[index]):,} bytes"
        proposal = Proposal(name, "bisected", self._frontier.assignment(index))
        trials = self._session.run([proposal])  # none, if the plan's output is not finite
        self._measured[index] = trials[0] if trials else None
        return bool(trials) and self._accept(trials[0])
