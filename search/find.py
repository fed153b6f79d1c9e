"""Finds the plan: proposes, measures, chooses, and says what it found about plain plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mixq.formats import Format
from mixq.search.bisection import bisect_size
from mixq.search.budget import Budget
from mixq.search.certificate import Certificate
from mixq.search.choose import Accept, choose, keeps
from mixq.search.frontier import Frontier
from mixq.search.gain import gain_notes
from mixq.search.limits import Limits
from mixq.search.metric import Judge
from mixq.search.problem import Problem
from mixq.search.proposals import budget_proposals, uniform_proposals
from mixq.search.reach import out_of_reach
from mixq.search.refine.refine import Refinement
from mixq.search.request import Sampler
from mixq.search.session import Session
from mixq.search.single import best_singles
from mixq.search.solve import solve, solve_once
from mixq.search.study.sampled import sample, warm_start
from mixq.search.trials import Proposal, Trial


@dataclass(frozen=True)
class Found:
    """What was measured and chosen.

    Attributes:
        trials: all measured plans, plain ones first.
        uniform: those of one width.
        single: the best of one format, where that is no uniform one.
        certificate: of the additive problem under the same limits.
        notes: what a user should know about the choice.
    """

    chosen: Trial
    trials: tuple[Trial, ...]
    uniform: tuple[Trial, ...]
    single: tuple[Trial, ...]
    certificate: Certificate
    notes: tuple[str, ...]

    @property
    def plain(self) -> tuple[Trial, ...]:
        """The plans that need no search: those of one width, then those of one format."""
        return (*self.uniform, *self.single)


def find(
    session: Session,
    frontier: Frontier,
    budget: Budget,
    limits: Limits,
    judge: Judge | None,
    *,
    trials: int,
    seed: int,
    sampler: Sampler = "mixq",
    refinement: Refinement | None = None,
    ranges: Mapping[str, str] | None = None,
) -> Found:
    """Measure the plain plans and the best proposals, and choose.

    Under a limit on bytes or latency the plans of least added error are measured, up to `trials`
    of them, and the best of these is refined; the best that keeps the demands on error and metric
    too is chosen, however small others may be. Without such a limit the smallest plan is sought
    whose measured error and metric are good enough, in a fixed number of steps. Errors that only
    add up are never held against a demand.

    Beside the uniform plans, those of a single format are measured that add the least error within
    the limits, or within the bytes of the smallest plan that is good enough.

    Args:
        session: measures plans.
        frontier: of the session's problem.
        budget: the demands.
        limits: that they amount to.
        judge: of metrics, if there is labelled data.
        trials: plans of least added error to measure.
        seed: of the tilts.
        sampler: who proposes plans: mixq's exact solutions, or a sampler of Optuna's.
        refinement: how the best plan is refined; None leaves it as it is.
        ranges: feasible ranges of the demands that tables tell, for a refusal.

    Raises:
        InfeasibleError: if no measured plan keeps the error or the metric demand.
    """
    problem = session.problem
    accept = _acceptance(judge, budget.max_metric_drop)
    wanted = uniform_proposals(problem)
    uniform = session.run(wanted)
    besides = [proposal.assignment for proposal in wanted]
    summed = replace(limits, error=None)
    good: Accept = lambda t: keeps(t, limits) and accept(t)  # noqa: E731
    remarks: list[str] = []
    if limits.objective == "error":
        formats = best_singles(problem, summed, besides)
        single = session.run(formats)
        optimum = solve(problem, summed, frontier=frontier).assignment
    if limits.objective == "error" and sampler != "mixq":
        sampled = sample(
            session, sampler, limits, uniform, warm_start(frontier, limits, optimum, trials),
            trials=trials, seed=seed,
        )  # fmt: skip
        measured, remarks = list(sampled.trials), [sampled.note]
    elif limits.objective == "error":
        measured = session.run(
            budget_proposals(problem, summed, optimum, _assigned, trials=trials, seed=seed)
        )
    else:
        measured = bisect_size(session, good, frontier, uniform)
        sizes = [t.totals.weight_bytes for t in (*uniform, *measured) if good(t)]
        within = Limits(weight_bytes=min(sizes, default=0))
        formats = best_singles(problem, within, besides)
        single = session.run(formats)
    plain = [*uniform, *single]
    best = choose([*plain, *measured], limits, accept)
    if refinement is not None and best is not None and limits.objective == "error":
        refined = refinement.of(session, best, measured, summed, good)
        measured += refined.trials
        best = choose([*plain, *measured], limits, accept, first=refined.best)
    if best is None:
        raise out_of_reach([*plain, *measured], limits, budget, judge, ranges or {})
    if limits.objective != "error":
        summed = Limits(weight_bytes=best.totals.weight_bytes)
    certificate = solve(problem, summed, frontier=frontier).certificate
    notes = [
        *remarks,
        *_broken([*wanted, *formats], plain),
        *gain_notes(best, plain, limits, accept),
    ]
    return _found(best, uniform, single, measured, certificate, summed, notes)


def _broken(wanted: Sequence[Proposal], measured: Sequence[Trial]) -> list[str]:
    """What to say of plain plans that could not be measured."""
    known = {trial.proposal.name for trial in measured}
    return [
        f"{p.name}{' bit' if p.kind == 'uniform' else ''} makes the output NaN or infinite"
        for p in wanted
        if p.name not in known
    ]


def _assigned(problem: Problem, limits: Limits) -> dict[str, Format]:
    return solve_once(problem, limits).assignment


def _acceptance(judge: Judge | None, max_drop: float | None) -> Accept:
    if judge is None or max_drop is None:
        return lambda trial: True
    return lambda trial: judge.drop(trial.proposal.assignment) <= max_drop


def _found(
    chosen: Trial,
    uniform: Sequence[Trial],
    single: Sequence[Trial],
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
        trials=(*uniform, *single, *measured),
        uniform=tuple(uniform),
        single=tuple(single),
        certificate=optimum.reached(reached),
        notes=tuple(notes),
    )
