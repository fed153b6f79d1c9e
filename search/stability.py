"""Stability: how much of a plan another draw of the calibration samples would leave as it is.

By the bootstrap over samples (Efron, "Bootstrap methods: another look at the jackknife", Annals of
Statistics 7(1), 1979): what these samples are to all, draws from them are to these. Every draw
takes the same samples for all units and formats, because errors rise and fall together, and what
they have in common changes no plan. Of n samples, n - 1 are drawn with replacement, which gives
means the variance s^2 / n that they have; n would give (n - 1) / n of it (Rao, Wu, "Resampling
inference with complex survey data", Journal of the American Statistical Association 83, 1988).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mixq.search.limits import Limits
from mixq.search.problem import Problem
from mixq.search.proposals import tilted
from mixq.search.race.draws import Vector, lognormal
from mixq.search.solve import solve_once
from mixq.search.trials import Tilt, Trial
from mixq.sensitivity.table import SensitivityTable

MIN_SAMPLES: Final = 4
"""Of fewer nothing is said: their draws are almost all alike."""
RESAMPLINGS: Final = 100
FEWEST: Final = 20
"""Resamplings where each takes long: with a limit on latency, or many choices."""
MOST_CHOICES: Final = 250_000
"""Of all resamplings together: about two seconds."""


@dataclass(frozen=True)
class Stability:
    """What the bootstrap says of a plan.

    Attributes:
        samples: that sensitivities were measured on; of fewer than 4 nothing can be said.
        resamplings: draws that were planned for again; 0 if nothing can be said.
        widths: share of the draws in which a unit keeps its width, by unit.
        formats: the same for its whole format.
        regret: share by which a plan from such a draw has more of the added error than the plan
            from all samples, on average over the draws. Of tilted errors where the plan is the
            optimum of tilted errors.
    """

    samples: int
    resamplings: int
    widths: Mapping[str, float]
    formats: Mapping[str, float]
    regret: float

    @property
    def kept(self) -> float:
        """Mean over the units of the share in which they keep their width."""
        return math.fsum(self.widths.values()) / len(self.widths) if self.widths else 0.0


def stability(
    problem: Problem, table: SensitivityTable, chosen: Trial, limits: Limits, *, seed: int = 0
) -> Stability | None:
    """Plan again, under the same limits, from resampled sensitivities.

    Where a size is what was sought, the bytes of the chosen plan are the limit.

    Args:
        problem: that the plan was solved in.
        table: of the same units and formats, with errors by sample; or with standard errors
            beside what all have in common, from which errors are drawn.
        chosen: the plan; the optimum of tilted errors is compared with such optima.
        limits: that it keeps; one on errors is left out.
        seed: of the draws.

    Returns:
        What was found; None if neither errors by sample nor own standard errors are known.
    """
    errors = _by_sample(problem, table)
    if errors is None:
        found = _own(problem, table)
        if found is None:
            return None
        means, spreads = found
        samples = table.samples
    else:
        means, samples = errors.mean(1).clip(min=0), errors.shape[1]
    if samples < MIN_SAMPLES:
        return Stability(samples, 0, {}, {}, 0.0)
    within = replace(limits, error=None)
    if limits.objective != "error":
        within = Limits(weight_bytes=chosen.totals.weight_bytes)
    tilt = chosen.proposal.tilt
    judge = _with(problem, means, tilt)
    resamplings = _count(problem, within)
    chance = np.random.default_rng(seed)
    draws = (
        (lognormal(chance, means, spreads) for _ in range(resamplings))
        if errors is None
        else _draws(errors, resamplings, chance)
    )
    least = judge.evaluate(solve_once(judge, within).assignment).error
    widths: Counter[str] = Counter()
    formats: Counter[str] = Counter()
    losses = []
    plan = chosen.proposal.assignment
    for drawn in draws:
        again = solve_once(_with(problem, drawn, tilt), within).assignment
        widths.update(unit for unit, fmt in again.items() if fmt.bits == plan[unit].bits)
        formats.update(unit for unit, fmt in again.items() if fmt == plan[unit])
        losses.append(max(judge.evaluate(again).error / least - 1, 0.0) if least > 0 else 0.0)
    count = len(losses)
    return Stability(
        samples=samples,
        resamplings=count,
        widths={unit: widths[unit] / count for unit in plan},
        formats={unit: formats[unit] / count for unit in plan},
        regret=math.fsum(losses) / count,
    )


def _count(problem: Problem, limits: Limits) -> int:
    """How many resamplings: fewer where each takes longer, by a rule that knows no clock."""
    if limits.has_sum_of_its_own:
        return FEWEST
    choices = sum(map(len, problem.choices.values()))
    return max(FEWEST, min(RESAMPLINGS, MOST_CHOICES // choices))


def _by_sample(problem: Problem, table: SensitivityTable) -> NDArray[np.float64] | None:
    """Errors in the order of the problem's choices, shape (choices, samples that all have)."""
    rows = [
        table.entries[unit][choice.format].per_sample
        for unit, choices in problem.choices.items()
        for choice in choices
    ]
    samples = min(map(len, rows))
    return np.array([row[:samples] for row in rows]) if samples else None


def _own(problem: Problem, table: SensitivityTable) -> tuple[Vector, Vector] | None:
    """Errors and their own relative spreads, in the order of the problem's choices."""
    entries = [
        table.entries[unit][choice.format]
        for unit, choices in problem.choices.items()
        for choice in choices
    ]
    known = [
        (e.error, 0.0 if e.error == 0 else e.own_se / e.error)
        for e in entries
        if e.own_se is not None
    ]
    if len(known) < len(entries):
        return None
    return np.array([error for error, _ in known]), np.array([spread for _, spread in known])


def _draws(
    errors: NDArray[np.float64], resamplings: int, chance: np.random.Generator
) -> Iterator[Vector]:
    """Means over drawn samples, each of shape (choices,)."""
    samples = errors.shape[1]
    for _ in range(resamplings):
        # A loss may fall: then it counts as none, as in the table.
        yield errors[:, chance.integers(0, samples, samples - 1)].mean(1).clip(min=0)


def _with(problem: Problem, means: NDArray[np.float64], tilt: Tilt | None) -> Problem:
    """The problem with other errors, in the order of its choices, tilted if asked."""
    error = iter(means.tolist())
    choices = {
        unit: tuple(replace(choice, error=next(error)) for choice in choices)
        for unit, choices in problem.choices.items()
    }
    changed = replace(problem, choices=choices)
    return changed if tilt is None else tilted(changed, tilt)
