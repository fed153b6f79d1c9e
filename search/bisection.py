"""Bisection of the size: the smallest plan that measuring finds good enough."""

from __future__ import annotations

from typing import Final

from mixq.search.choose import Accept
from mixq.search.frontier import Frontier
from mixq.search.limits import Limits
from mixq.search.session import Session
from mixq.search.solve import solve
from mixq.search.trials import Proposal, Trial

STAGE: Final = "judging plans"
STEPS: Final = 8
"""The bytes of the answer are within 1/2^STEPS of the range between smallest and largest plan."""


def bisect_size(session: Session, accept: Accept, frontier: Frontier) -> list[Trial]:
    """The plans measured on the way to the smallest one that `accept` takes.

    Bisects the bytes between the smallest plan and the largest, taking at each size the plan of
    least added error. If what is judged falls as the bytes grow, the smallest accepted trial is
    the smallest such plan there is, to within a step; in any case it is one that is accepted. If
    not even the largest plan is, that is the only one measured.
    """
    problem = session.problem
    low = problem.extreme("weight_bytes").weight_bytes
    high = problem.extreme("weight_bytes", largest=True).weight_bytes
    measured: list[Trial] = []
    for step in range(STEPS + 1):
        session.progress(STAGE, step, STEPS + 1)
        size = high if step == 0 else (low + high) // 2
        solution = solve(problem, Limits(weight_bytes=size), frontier=frontier)
        proposal = Proposal(f"least error in {size:,} bytes", "bisected", solution.assignment)
        trials = session.run([proposal])  # none, if the plan's output is not finite
        measured += trials
        if trials and accept(trials[0]):
            high = trials[0].totals.weight_bytes
        elif step == 0:
            return measured
        else:
            low = size
    session.progress(STAGE, STEPS + 1, STEPS + 1)
    return measured
