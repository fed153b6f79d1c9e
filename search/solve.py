"""Exact solutions: by dynamic programming, by the core of one budget, or by HiGHS."""

from __future__ import annotations

import time
from dataclasses import replace

from mixq.errors import UsageError
from mixq.search.certificate import Solution
from mixq.search.exact.core import Core
from mixq.search.exact.fewest import solve_fewest
from mixq.search.exact.milp import certified, infeasible, minimise
from mixq.search.frontier import Frontier, build_frontier
from mixq.search.limits import Limits
from mixq.search.problem import Problem


def solve(problem: Problem, limits: Limits, *, frontier: Frontier | None = None) -> Solution:
    """The best assignment within the limits, with a certificate, verified.

    Args:
        problem: units and their choices.
        limits: what the totals must keep.
        frontier: the frontier of this problem, if it is known already.

    Raises:
        InfeasibleError: if no assignment keeps all limits; its `ranges` say what is possible.
        UsageError: if the frontier is another problem's.
        MixqError: if HiGHS gives up.
    """
    if limits.has_sum_of_its_own:
        return solve_once(problem, limits)
    if frontier is None:
        frontier = build_frontier(problem)
    elif frontier.problem != problem:
        raise UsageError("the frontier belongs to another problem; build it from this one")
    if not frontier.exact:
        return solve_once(problem, limits)
    if limits.weight_bytes is not None:
        point = frontier.best_under(limits.weight_bytes)
    elif limits.error is not None:
        point = frontier.smallest_with(limits.error)
    else:
        point = frontier.point(0)
    if limits.error is not None and point.error > limits.error:
        raise infeasible(problem, limits)
    assignment, solver = frontier.assignment(point.index), "dynamic-programming"
    solution = certified(
        problem, assignment, limits, limits.objective, None, solver, frontier.states
    )
    return _timed(solution, frontier.solve_s)


def solve_once(problem: Problem, limits: Limits) -> Solution:
    """As `solve`, for a problem of which one point is wanted and not its frontier.

    Raises:
        InfeasibleError: if no assignment keeps all limits.
        MixqError: if HiGHS gives up.
    """
    start = time.process_time()
    found = None if limits.has_sum_of_its_own else _by_core(problem, limits)
    solution = found or minimise(problem, limits.objective, limits)
    return _timed(solution, time.process_time() - start)


def _by_core(problem: Problem, limits: Limits) -> Solution | None:
    """The optimum under limits on bytes and errors; None if HiGHS has to say."""
    if limits.weight_bytes is not None:
        found = Core.of(problem).solve(limits.weight_bytes)
    elif limits.error is not None:
        found = solve_fewest(problem, limits.error)
    else:
        found = Core.of(problem).solve(problem.extreme("weight_bytes").weight_bytes)
    if found is None:
        return None
    assignment = problem.picked(found.picks)
    if not limits.allow(problem.evaluate(assignment)):
        raise infeasible(problem, limits)  # what was found has the least error in these bytes
    return certified(problem, assignment, limits, limits.objective, None, "core", found.states)


def _timed(solution: Solution, solve_s: float) -> Solution:
    return replace(solution, certificate=replace(solution.certificate, solve_s=solve_s))
