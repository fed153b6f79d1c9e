"""Finds the plan: proposes, measures, chooses, and says what it found about uniform plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mixq.errors import InfeasibleError, MixqError, NonFiniteError
from mixq.formats import Format
from mixq.search.bisection import bisect_size
from mixq.search.budget import Budget, rounded
from mixq.search.certificate import Certificate
from mixq.search.choose import Accept, choose, keeps, rivals
from mixq.search.frontier import Frontier
from mixq.search.limits import Limits
from mixq.search.metric import Judge
from mixq.search.problem import Problem
from mixq.search.proposals import budget_proposals, uniform_proposals
from mixq.search.session import Session
from mixq.search.solve import solve, solve_once
from mixq.search.trials import Trial, difference_of, within_noise


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

    Under a limit on bytes or latency the plans of least added error are measured, up to `trials`
    of them. Without one the smallest plan is sought whose measured error and metric are good
    enough, in a fixed number of steps. Errors that only add up are never held against a demand.

    Raises:
        InfeasibleError: if no measured plan keeps the error or the metric demand.
    """
    problem = session.problem
    accept = _acceptance(judge, budget.max_metric_drop)
    wanted = uniform_proposals(problem)
    uniform = session.run(wanted)
    broken = [p.name for p in wanted if all(trial.proposal.name != p.name for trial in uniform)]
    summed = replace(limits, error=None)
    if limits.objective == "error":
        optimum = solve(problem, summed, frontier=frontier).assignment
        measured = session.run(
            budget_proposals(problem, summed, optimum, _assigned, trials=trials, seed=seed)
        )
    else:
        measured = bisect_size(session, lambda t: keeps(t, limits) and accept(t), frontier)
    best = choose([*uniform, *measured], limits, accept)
    if best is None:
        raise _out_of_reach([*uniform, *measured], limits, budget, judge)
    if limits.objective != "error":
        summed = Limits(weight_bytes=best.totals.weight_bytes)
    certificate = solve(problem, summed, frontier=frontier).certificate
    notes = [f"{name} bit makes the output NaN or infinite" for name in broken]
    return _found(best, uniform, measured, certificate, summed, notes)


def _assigned(problem: Problem, limits: Limits) -> dict[str, Format]:
    return solve_once(problem, limits).assignment


def _acceptance(judge: Judge | None, max_drop: float | None) -> Accept:
    if judge is None or max_drop is None:
        return lambda trial: True
    return lambda trial: judge.drop(trial.proposal.assignment) <= max_drop


def _out_of_reach(
    measured: Sequence[Trial], limits: Limits, budget: Budget, judge: Judge | None
) -> MixqError:
    """Why no measured plan is good enough: the error, or else the metric."""
    within = [trial for trial in measured if keeps(trial, replace(limits, error=None))]
    if not within:
        return NonFiniteError(
            "all measured plans that keep the demands make the output NaN or infinite; "
            "pin the layers that do at 32 bits, or demand less"
        )
    small = [trial for trial in within if keeps(trial, limits)]
    together = " together with the other demands" if len(budget.to_dict()) > 1 else ""
    if not small or judge is None or budget.max_metric_drop is None:
        least = rounded(min(trial.measured.error for trial in within), up=True)
        return InfeasibleError(
            f"--max-error {limits.error or 0:g} cannot be met{together}: the least measured error "
            f"is {least}; allow more, or wider formats with --bits",
            {"max_error": f"{least} or more"},
        )
    drop = rounded(min(judge.drop(trial.proposal.assignment) for trial in small), up=True)
    return InfeasibleError(
        f"--max-metric-drop {budget.max_metric_drop:g} cannot be met{together}: the least "
        f"measured drop of {judge.primary()} is {drop}; allow more, or wider formats with --bits",
        {"max_metric_drop": f"{drop} or more"},
    )


def _found(
    chosen: Trial,
    uniform: Sequence[Trial],
    measured: Sequence[Trial],
    optimum: Certificate,
    limits: Limits,
    notes: Sequence[str],
) -> Found:
    # The chosen plan may not be the optimum of the added errors: what is certified is how far
    # it is, at most, from the best one there is.
    reached = getattr(chosen.totals, limits.objective)
    return Found(
        chosen=chosen,
        trials=(*uniform, *measured),
        uniform=tuple(uniform),
        certificate=optimum.reached(reached),
        notes=(*notes, *_uniform_notes(chosen, uniform)),
    )


def _uniform_notes(chosen: Trial, uniform: Sequence[Trial]) -> list[str]:
    """What to say when a uniform plan does as well."""
    for rival in uniform:
        if rival.proposal.assignment == chosen.proposal.assignment:
            return [
                f"{rival.proposal.name} bit already meets the demands, and no measured mix of no "
                "more bytes is better: a mixed plan buys nothing here"
            ]
    return [
        f"{rival.proposal.name} bit is as good within the noise of the data "
        f"({difference_of(chosen, rival).samples} samples), at {rival.totals.compression:.2f}x"
        for rival in rivals(chosen, uniform)
        if within_noise(chosen, rival)
    ]
