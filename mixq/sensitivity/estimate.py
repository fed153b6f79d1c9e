"""Estimate: a mean over samples with its standard error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Estimate:
    """Output error of one change to the model.

    Attributes:
        error: mean over samples of their errors, in whatever metric.
        error_se: standard error of that mean; 0 for a single sample, which says nothing.
        samples: number of samples.
    """

    error: float
    error_se: float
    samples: int

    @classmethod
    def of(cls, per_sample: Sequence[float]) -> Estimate:
        """Mean and standard error (Bessel-corrected) of the errors of the samples."""
        count = len(per_sample)
        mean = math.fsum(per_sample) / count
        if count == 1:
            return cls(mean, 0.0, 1)
        variance = math.fsum((value - mean) ** 2 for value in per_sample) / (count - 1)
        return cls(mean, math.sqrt(variance / count), count)

    @classmethod
    def of_errors(cls, per_sample: Sequence[float]) -> Estimate:
        """As `of`, but a mean below zero is zero.

        A user's loss may fall where a layer is rounded. That is noise of the data, or a fit to
        them, and nothing to plan by; the standard error says how far from zero it is.
        """
        estimate = cls.of(per_sample)
        return estimate if estimate.error >= 0 else replace(estimate, error=0.0)
