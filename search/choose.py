"""Choice: the measured plan that is returned, never worse than a plain one of no more bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from mixq.search.limits import Limits
from mixq.search.trials import PLAIN, Trial, paired_difference

Accept: TypeAlias = Callable[[Trial], bool]
"""Whether a measured plan keeps a demand that totals do not tell, such as one on a metric."""


def choose(
    trials: Sequence[Trial],
    limits: Limits,
    accept: Accept | None = None,
    *,
    first: Trial | None = None,
) -> Trial | None:
    """The best of the measured plans that keep every demand; None if none does.

    If bytes or latency are limited, plans are ranked by their error on calibration data, and the
    optimum of the added errors goes first unless another beats it by more than the noise: among
    several plans that are equally good, the luckiest on calibration data is rarely the best on
    other data. Otherwise the smallest plan goes first.

    Then the guard: a plan that errs more than a plain one (of one width or one format for all)
    that keeps the demands too and takes no more bytes, on held-out data if there are any, is
    passed over. A plain plan passes that test itself unless a smaller plain one beats it, so that
    something always passes.

    `accept` is asked in the order of the ranking, and only as often as the choice needs. `first`
    takes the place of the optimum of the added errors: the plan that it was refined to.
    """
    accepts = accept or (lambda trial: True)
    kept = [trial for trial in trials if keeps(trial, limits)]
    plain = [trial for trial in kept if trial.proposal.kind in PLAIN]
    for trial in _ranked(kept, limits, first):
        better = [r for r in rivals(trial, plain) if r.judged_error < trial.judged_error]
        if accepts(trial) and not any(map(accepts, better)):
            return trial
    return None


def keeps(trial: Trial, limits: Limits) -> bool:
    """Whether a trial keeps the limits, by its measured and not its predicted error."""
    totals = trial.totals
    return (
        (limits.weight_bytes is None or totals.weight_bytes <= limits.weight_bytes)
        and (limits.latency_s is None or totals.latency_s <= limits.latency_s)
        and (
            limits.peak_memory_bytes is None
            or totals.peak_memory_bytes <= limits.peak_memory_bytes
        )
        and (limits.error is None or trial.measured.error <= limits.error)
    )


def rivals(trial: Trial, plain: Sequence[Trial]) -> list[Trial]:
    """The plain plans of no more bytes."""
    return [rival for rival in plain if rival.totals.weight_bytes <= trial.totals.weight_bytes]


def beats(trial: Trial, incumbent: Trial) -> bool:
    """Whether a plan's calibration error is lower by more than two standard errors."""
    difference = paired_difference(trial.errors, incumbent.errors)
    return difference.error < -2 * difference.error_se


def _ranked(kept: Sequence[Trial], limits: Limits, first: Trial | None) -> list[Trial]:
    """Best first; see `choose`."""
    if limits.objective != "error":
        return sorted(
            kept, key=lambda t: (t.totals.weight_bytes, t.measured.error, t.proposal.name)
        )
    ranked = sorted(kept, key=lambda t: (t.measured.error, t.totals.weight_bytes, t.proposal.name))
    heads = [first] if first is not None and first in kept else ranked
    for optimum in (t for t in heads if t is first or t.proposal.kind == "additive"):
        better = [trial for trial in ranked if beats(trial, optimum)]
        rest = [trial for trial in ranked if trial is not optimum and trial not in better]
        return [*better, optimum, *rest]
    return ranked
