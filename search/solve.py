"""Exact solutions: by dynamic programming, by the core of one budget, or by HiGHS."""

from __future__ import annotations

from mixq.errors import UsageError
from mixq.search.certificate import Solution
from mixq.search.core import solve_core
from mixq.search.frontier import Frontier, build_frontier
from mixq.search.limits import Limits
from mixq.search.milp import certified, infeasible, minimise
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
    if limits.latency_s is not None:
        return minimise(problem, limits.objective, limits)
    if frontier is None:
        frontier = build_frontier(problem)
    elif frontier.problem != problem:
        raise UsageError("the frontier belongs to another problem; build it from this one")
    if not frontier.exact:
        return _by_core(problem, limits) or minimise(problem, limits.objective, limits)
    if limits.weight_bytes is not None:
        point = frontier.best_under(limits.weight_bytes)
    elif limits.error is not None:
        point = frontier.smallest_with(limits.error)
    else:
        point = frontier.point(0)
    if limits.error is not None and point.error > limits.error:
        raise infeasible(problem, limits)
    assignment = frontier.assignment(point.index)
    return certified(problem, assignment, limits, limits.objective, None, "dynamic-programming")


def _by_core(problem: Problem, limits: Limits) -> Solution | None:
    """The optimum if bytes alone are limited, or errors by no more than it keeps."""
    if limits.weight_bytes is None:
        return None
    found = solve_core(problem, limits.weight_bytes)
    if found is None:
        return None
    taken = {
        unit: item.formats[pick]
        for item, pick in zip(problem.items, found.picks, strict=True)
        for unit in item.units
    }
    assignment = {unit: taken[unit] for unit in problem.choices}
    if not limits.allow(problem.evaluate(assignment)):
        return None
    return certified(problem, assignment, limits, "error", None, "core")


def solve_once(problem: Problem, limits: Limits) -> Solution:
    """As `solve`, for a problem of which one point is wanted and not its frontier.

    Raises:
        InfeasibleError: if no assignment keeps all limits.
        MixqError: if HiGHS gives up.
    """
    alone = limits.latency_s is None and limits.error is None
    found = _by_core(problem, limits) if alone else None
    return found or minimise(problem, limits.objective, limits)
