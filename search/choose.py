"""Choice: the measured plan that is returned, never worse than a uniform one of no more bytes."""

from __future__ import annotations

from collections.abc import Sequence

from mixq.search.problem import Limits
from mixq.search.trials import Trial


def choose(trials: Sequence[Trial], limits: Limits) -> Trial | None:
    """The best of the measured plans that keep the limits; None if none does.

    Plans are ranked on calibration data: by error if bytes or latency are limited, else by
    bytes. Then the guard: a plan that errs more than a feasible uniform one of no more bytes,
    on held-out data if there are any, is passed over. A uniform plan passes that test itself
    unless a smaller uniform one beats it, so that something always passes.
    """
    feasible = [trial for trial in trials if _keeps(trial, limits)]
    uniform = [trial for trial in feasible if trial.proposal.kind == "uniform"]
    for trial in sorted(feasible, key=lambda trial: _rank(trial, limits)):
        if all(trial.judged_error <= rival.judged_error for rival in rivals(trial, uniform)):
            return trial
    return None


def rivals(trial: Trial, uniform: Sequence[Trial]) -> list[Trial]:
    """The uniform plans of no more bytes."""
    return [rival for rival in uniform if rival.totals.weight_bytes <= trial.totals.weight_bytes]


def _keeps(trial: Trial, limits: Limits) -> bool:
    """Whether a trial keeps the limits, by its measured and not its predicted error."""
    totals = trial.totals
    return (
        (limits.weight_bytes is None or totals.weight_bytes <= limits.weight_bytes)
        and (limits.latency_s is None or totals.latency_s <= limits.latency_s)
        and (limits.error is None or trial.measured.error <= limits.error)
    )


def _rank(trial: Trial, limits: Limits) -> tuple[float, float, str]:
    error, size = trial.measured.error, float(trial.totals.weight_bytes)
    first, second = (error, size) if limits.objective == "error" else (size, error)
    return first, second, trial.proposal.name
