"""Finds the plan: proposes, measures, chooses, and says what it found about uniform plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mixq.errors import InfeasibleError
from mixq.formats import Format
from mixq.search.budget import Budget
from mixq.search.certificate import Certificate
from mixq.search.choose import choose, rivals
from mixq.search.frontier import Frontier
from mixq.search.metric import Judge, smallest_within_drop
from mixq.search.milp import minimise, solve
from mixq.search.problem import Limits, Problem
from mixq.search.proposals import budget_proposals, uniform_proposals
from mixq.search.session import Session
from mixq.search.trials import Trial, within_noise


@dataclass(frozen=True)
class Found:
    """What was measured and chosen.

    Attributes:
        trials: all measured plans, uniform ones first.
        uniform: the uniform ones.
        certificate: of the additive problem under the same limits.
        notes: what a user should know about the choice.
    """

    chosen: Trial
    trials: tuple[Trial, ...]
    uniform: tuple[Trial, ...]
    certificate: Certificate
    notes: tuple[str, ...]


def find(
    session: Session,
    frontier: Frontier,
    budget: Budget,
    limits: Limits,
    judge: Judge | None,
    *,
    trials: int,
    seed: int,
) -> Found:
    """Measure the uniform plans and the best proposals, and choose.

    Raises:
        InfeasibleError: if no measured plan keeps the error or the metric demand.
    """
    uniform = session.run(uniform_proposals(session.problem))
    max_drop = budget.max_metric_drop
    if judge is not None and max_drop is not None and limits.objective != "error":
        chosen, measured = smallest_within_drop(session, limits, judge, max_drop, session.progress)
        chosen = _smaller_uniform(chosen, uniform, limits, judge, max_drop)
        size = Limits(weight_bytes=chosen.totals.weight_bytes)
        optimum = solve(session.problem, size, frontier=frontier)
        return _found(chosen, uniform, measured, optimum.certificate, size)
    optimum = solve(session.problem, limits, frontier=frontier)
    proposals = budget_proposals(
        session.problem, limits, optimum.assignment, _highs, trials=trials, seed=seed
    )
    measured = session.run(proposals)
    best = choose([*uniform, *measured], limits)
    if best is None:
        raise _error_out_of_reach([*uniform, *measured], limits)
    if judge is not None and max_drop is not None:
        drop = judge.drop(best.proposal.assignment)
        if drop > max_drop:
            raise InfeasibleError(
                f"--max-metric-drop {max_drop:g} cannot be met together with the other demands: "
                f"the best plan within them drops {judge.primary()} by {drop:g}; relax one",
                {"max_metric_drop": f"{drop:g} or more"},
            )
    return _found(best, uniform, measured, optimum.certificate, limits)


def _highs(problem: Problem, limits: Limits) -> dict[str, Format]:
    # One budget of a tilted problem: HiGHS is quicker than its whole frontier.
    return minimise(problem, limits.objective, limits).assignment


def _smaller_uniform(
    chosen: Trial, uniform: Sequence[Trial], limits: Limits, judge: Judge, max_drop: float
) -> Trial:
    """The smallest uniform plan that keeps the metric demand, if it is no larger than `chosen`."""
    kept = [
        trial
        for trial in rivals(chosen, uniform)
        if limits.allow(trial.totals) and judge.drop(trial.proposal.assignment) <= max_drop
    ]
    return min(kept, key=lambda trial: trial.totals.weight_bytes, default=chosen)


def _error_out_of_reach(measured: Sequence[Trial], limits: Limits) -> InfeasibleError:
    least = min(trial.measured.error for trial in measured)
    return InfeasibleError(
        f"--max-error {limits.error or 0:g} cannot be met together with the other demands: the "
        f"least measured error is {least:.4g}; allow more, or relax another demand",
        {"max_error": f"{least:.4g} or more"},
    )


def _found(
    chosen: Trial,
    uniform: Sequence[Trial],
    measured: Sequence[Trial],
    optimum: Certificate,
    limits: Limits,
) -> Found:
    # The chosen plan may not be the optimum of the added errors: what is certified is how far
    # it is, at most, from the best one there is.
    reached = getattr(chosen.totals, limits.objective)
    certificate = Certificate.of(reached, optimum.lower_bound, optimum.solver)
    return Found(
        chosen=chosen,
        trials=(*uniform, *measured),
        uniform=tuple(uniform),
        certificate=certificate,
        notes=tuple(_uniform_notes(chosen, uniform)),
    )


def _uniform_notes(chosen: Trial, uniform: Sequence[Trial]) -> list[str]:
    """What to say when a uniform plan does as well."""
    if chosen.proposal.kind == "uniform":
        return [
            f"{chosen.proposal.name} bit already meets the demands, and no measured mix of no "
            "more bytes is better: a mixed plan buys nothing here"
        ]
    return [
        f"{rival.proposal.name} bit is as good within the noise of the data, at "
        f"{rival.totals.compression:.2f}x"
        for rival in rivals(chosen, uniform)
        if within_noise(chosen, rival)
    ]
