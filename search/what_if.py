"""What-if: the best plan under another budget, with other pins or ties, without measuring."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mixq.errors import UsageError
from mixq.search.budget import Budget, check_feasible
from mixq.search.certificate import Solution
from mixq.search.frontier import Frontier
from mixq.search.problem import Problem
from mixq.search.solve import solve, solve_once


def what_if(
    problem: Problem,
    budget: Budget,
    *,
    pins: Mapping[str, int] | None = None,
    ties: Iterable[Sequence[str]] = (),
    frontier: Frontier | None = None,
    baseline_latency_s: float | None = None,
) -> Solution:
    """The additive optimum of measured tables under a budget, certified.

    Nothing is run: bytes and latencies are the tables', and errors are added up, so `max_error`
    limits the added error here. Tenths of a second at 10,000 units. For example:

        >>> problem = layout.problem(sensitivity)  # or result.frontier.problem
        >>> what_if(problem, Budget(compression=8), pins={"head.weight": 8}).totals.error

    Args:
        problem: units and their choices.
        budget: demands.
        pins: unit name -> width, beside those that the problem was made with.
        ties: groups of names of units that take one format together; candidates that were beaten
            in one unit are not in the tables, so units not tied before may share few.
        frontier: of `problem`, if it is known.
        baseline_latency_s: latency of the original; needed for `min_speedup` alone.

    Raises:
        InfeasibleError: if no plan meets the demands, with the range of each.
        UsageError: if a metric drop is demanded, which only measuring tells; if a unit is
            unknown or may not take the width; if a tie leaves no format.
        MixqError: if HiGHS gives up.
    """
    if budget.max_metric_drop is not None:
        raise UsageError(
            f"what-if cannot tell a metric drop of {budget.max_metric_drop:g}, since nothing is "
            "measured; search with --max-metric-drop"
        )
    changed = problem.pinned(pins or {}) if pins else problem
    groups = list(ties)
    if groups:
        changed = changed.tied(groups)
    check_feasible(changed, budget, baseline_latency_s)
    limits = budget.limits(changed, baseline_latency_s)
    if changed is problem and frontier is not None:
        return solve(problem, limits, frontier=frontier)
    return solve_once(changed, limits)
