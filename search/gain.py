"""Gain: what a mixed plan buys over the plain ones, one width or one format for all layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from mixq.search.choose import Accept, keeps, rivals
from mixq.search.limits import Limits
from mixq.search.trials import Trial, difference_of

TOLD: Final = 0.25
"""Share of its error by which a plan may differ from one that is said to be as good; where two
standard errors are more than that, the samples say little."""


def gain_notes(chosen: Trial, plain: Sequence[Trial], limits: Limits, accept: Accept) -> list[str]:
    """What to say where a plain plan that keeps the demands does as well, the best of them.

    A plan gains over another if its error on all samples that both were measured on is lower by
    more than two standard errors of the paired difference.

    Args:
        chosen: the plan that is returned.
        plain: measured plans of one width or one format.
        limits: that were demanded; without any on bytes and time the smallest plan was sought, and
            only plain plans of no more bytes count.
        accept: whether a plan keeps what was demanded beside them.
    """
    for rival in plain:
        if rival.proposal.assignment == chosen.proposal.assignment:
            return [
                f"{_label(rival, ' bit')} already meets the demands, and no measured mix of no "
                "more bytes is better: a mixed plan buys nothing here"
            ]
    asked = plain if limits.objective == "error" else rivals(chosen, plain)
    even = [rival for rival in asked if keeps(rival, limits) and not gains(chosen, rival)]
    for rival in sorted(even, key=lambda t: (t.judged_error, t.totals.weight_bytes)):
        if accept(rival):
            return [_as_good(chosen, rival)]
    return []


def gains(chosen: Trial, rival: Trial) -> bool:
    """Whether a plan's error is lower by more than two standard errors of the difference."""
    difference = difference_of(chosen, rival)
    return difference.error < -2 * difference.error_se


def _as_good(chosen: Trial, rival: Trial) -> str:
    difference = difference_of(rival, chosen)
    error, twice_se, samples = difference.error, 2 * difference.error_se, difference.samples
    errors = (*chosen.errors, *(chosen.heldout_errors or ()))
    own = math.fsum(errors) / len(errors)
    change = f"{error:+.2g} ± {twice_se:.2g}"
    if own > 0:
        change = f"{error / own:+.1%} ± {twice_se / own:.1%}"
    sizes = f"at {rival.totals.compression:.2f}x against {chosen.totals.compression:.2f}x"
    if twice_se > TOLD * own:
        return (
            f"{samples} samples do not tell {_label(rival)} from this plan: its error differs by "
            f"{change} (two standard errors), {sizes}"
        )
    return (
        f"{_label(rival)} is as good here, within the noise of the data: its error differs by "
        f"{change} (two standard errors, {samples} samples), {sizes}"
    )


def _label(trial: Trial, unit: str = "") -> str:
    """`uniform w8` or `w4g64-gptq everywhere`; `uniform 8 bit` with a unit."""
    name = trial.proposal.name
    if trial.proposal.kind != "uniform":
        return name
    return f"{name}{unit}" if unit else name.replace("uniform ", "uniform w")
