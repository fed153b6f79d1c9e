"""Reach: demands on errors and metrics that no plan keeps, found out as early as can be.

What plans err is measured, so no table says what can be reached. But the widest plan there is
can be judged before anything else, and where that breaks a demand the search is spared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mixq.errors import FormatError, InfeasibleError, MixqError, NonFiniteError
from mixq.formats import Format
from mixq.rounding.rounder import Rounder
from mixq.search.budget import Budget, ranges_text, rounded
from mixq.search.choose import keeps
from mixq.search.limits import Limits
from mixq.search.metric import Judge
from mixq.search.problem import Problem
from mixq.search.trials import Trial
from mixq.sensitivity.estimate import Estimate
from mixq.sensitivity.joint import joint_errors
from mixq.sensitivity.reference import Reference

WIDEST = "the widest plan"


def check_reachable(
    problem: Problem,
    budget: Budget,
    rounder: Rounder,
    reference: Reference,
    judge: Judge | None,
    ranges: Mapping[str, str],
) -> None:
    """Refuse a demand on errors or metrics that not even the widest plan keeps.

    Costs nothing where units may stay at 32 bits, else one measurement and one evaluation.

    Args:
        problem: units and their choices; its errors play no part.
        budget: the demands.
        rounder: knows the codes.
        reference: on calibration data.
        judge: of metrics, if there is labelled data.
        ranges: feasible ranges of the other demands.

    Raises:
        InfeasibleError: naming the demand, with every feasible range.
        ModelError: if `evaluate` fails.
    """
    assignment = widest(problem)
    if all(fmt.bits == 32 for fmt in assignment.values()):
        return
    try:
        if budget.max_error is not None:
            errors = joint_errors(rounder, assignment, {"": reference}, WIDEST)[""]
            error = Estimate.of_errors(errors).error
            if error > budget.max_error:
                raise error_refused(budget, error, f"{WIDEST} errs by", ranges)
        if budget.max_metric_drop is not None and judge is not None:
            drop = judge.drop(assignment)
            if drop > budget.max_metric_drop:
                what = f"with {WIDEST}, {judge.primary()} drops by"
                raise drop_refused(budget, drop, what, ranges)
    except (FormatError, NonFiniteError):
        return  # said in its place, by what measures that unit


def widest(problem: Problem) -> dict[str, Format]:
    """Every unit in the widest format that it may take; of those, the one of most bytes."""
    chosen: dict[str, Format] = {}
    for item in problem.items:
        rows = zip(item.formats, item.weight_bytes.tolist(), strict=True)
        fmt, _ = max(rows, key=lambda row: (row[0].bits, row[1]))
        chosen.update(dict.fromkeys(item.units, fmt))
    return {unit: chosen[unit] for unit in problem.choices}


def out_of_reach(
    measured: Sequence[Trial],
    limits: Limits,
    budget: Budget,
    judge: Judge | None,
    ranges: Mapping[str, str],
) -> MixqError:
    """Why no measured plan is good enough: the error, or else the metric.

    Args:
        measured: plans.
        limits: that were demanded.
        budget: the demands.
        judge: of metrics, if there is labelled data.
        ranges: feasible ranges of the demands that tables tell.
    """
    within = [trial for trial in measured if keeps(trial, replace(limits, error=None))]
    if not within:
        return NonFiniteError(
            "all measured plans that keep the demands make the output NaN or infinite; "
            "pin the layers that do at 32 bits, or demand less"
        )
    small = [trial for trial in within if keeps(trial, limits)]
    if small and judge is not None and budget.max_metric_drop is not None:
        drop = min(judge.drop(trial.proposal.assignment) for trial in small)
        what = f"the least measured drop of {judge.primary()} is"
        return drop_refused(budget, drop, what, ranges)
    best = min(within, key=lambda trial: trial.measured.error)
    if judge is not None and budget.max_metric_drop is not None:
        drop = judge.drop(best.proposal.assignment)
        ranges = {**ranges, "max_metric_drop": f"{rounded(max(drop, 0.0), up=True)} or more"}
    return error_refused(budget, best.measured.error, "the least measured error is", ranges)


def error_refused(
    budget: Budget, error: float, what: str, ranges: Mapping[str, str]
) -> InfeasibleError:
    """The refusal of `--max-error`, where `error` is the least there is."""
    asked = f"--max-error {budget.max_error or 0:g}"
    return _refused(budget, "max_error", asked, rounded(error, up=True), what, ranges)


def drop_refused(
    budget: Budget, drop: float, what: str, ranges: Mapping[str, str]
) -> InfeasibleError:
    """The refusal of `--max-metric-drop`, where `drop` is the least there is."""
    asked = f"--max-metric-drop {budget.max_metric_drop or 0:g}"
    return _refused(budget, "max_metric_drop", asked, rounded(drop, up=True), what, ranges)


def _refused(
    budget: Budget, name: str, asked: str, least: str, what: str, ranges: Mapping[str, str]
) -> InfeasibleError:
    several = len(budget.to_dict()) > 1
    together = " together with the other demands" if several else ""
    found = {
        demand: f"{least} or more" if demand == name else ranges.get(demand, "any")
        for demand in budget.to_dict()
    }
    listed = f"; the feasible ranges are {ranges_text(found)}" if several else ""
    return InfeasibleError(
        f"{asked} cannot be met{together}: {what} {least}; allow more, or wider formats with "
        f"--bits{listed}",
        found,
    )
