"""Trial: one whole plan, predicted by the tables and measured on the model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from mixq.formats import Format
from mixq.search.limits import Totals
from mixq.sensitivity.estimate import Estimate

Kind = Literal["uniform", "single", "additive", "tilted", "refined", "bisected", "sampled"]
"""Where a plan came from: one width for all, one format for all, the additive optimum, the optimum
of tilted errors, the effects of changes around another plan, the bisection for the smallest plan
that is good enough, or a sampler of Optuna's own."""
PLAIN: Final[tuple[Kind, ...]] = ("uniform", "single")
"""Plans that need no search, which a mix has to beat."""


@dataclass(frozen=True)
class Tilt:
    """A change of all errors whose optimum is proposed as well.

    Attributes:
        power: that errors are raised to.
        factors: of the units in the order of their names; none if empty.
    """

    name: str
    power: float = 1.0
    factors: tuple[float, ...] = ()


@dataclass(frozen=True)
class Proposal:
    """A plan worth measuring.

    Attributes:
        name: short and unique within a run: `uniform 4`, `optimum`, `optimum (errors^0.75)`.
        kind: where it came from.
        assignment: unit name to format.
        tilt: of the errors that it is the optimum of; None if it is of none.
    """

    name: str
    kind: Kind
    assignment: Mapping[str, Format]
    tilt: Tilt | None = None


@dataclass(frozen=True)
class Trial:
    """A measured plan.

    Attributes:
        totals: what the tables predict.
        errors: output error of each calibration sample, all units quantized at once.
        heldout_errors: the same on held-out samples; None if there are none.
    """

    proposal: Proposal
    totals: Totals
    errors: tuple[float, ...]
    heldout_errors: tuple[float, ...] | None

    @property
    def measured(self) -> Estimate:
        """Output error on calibration data."""
        return Estimate.of_errors(self.errors)

    @property
    def heldout(self) -> Estimate | None:
        """Output error on held-out data."""
        return None if self.heldout_errors is None else Estimate.of_errors(self.heldout_errors)

    @property
    def judged_error(self) -> float:
        """The error that plans are compared by: held-out where there is held-out data."""
        return (self.heldout or self.measured).error


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    """Mean of ours - theirs over the same samples, with the standard error of that mean."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    return Estimate.of(differences)


def difference_of(ours: Trial, theirs: Trial) -> Estimate:
    """Paired difference of two plans' errors on all the samples that both were measured on."""
    if ours.heldout_errors is None or theirs.heldout_errors is None:
        return paired_difference(ours.errors, theirs.errors)
    return paired_difference(
        (*ours.errors, *ours.heldout_errors), (*theirs.errors, *theirs.heldout_errors)
    )


def within_noise(ours: Trial, theirs: Trial) -> bool:
    """Whether two plans' errors differ by less than two standard errors of the difference."""
    difference = difference_of(ours, theirs)
    return math.fabs(difference.error) <= 2 * difference.error_se
