"""Estimate: a mean over samples with its standard error and the interval that it states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from scipy.special import stdtrit

LARGEST_EXPONENT: Final = 700.0
"""exp of more overflows; no interval that is so wide says anything."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Output error of one change to the model.

    Attributes:
        error: mean over samples of the squared difference of the outputs.
        error_se: standard error of that mean; 0 for a single sample, which says nothing.
        samples: number of samples.
        per_sample: the errors that it is the mean of, in the order of the samples; empty where
            they are not known.
    """

    error: float
    error_se: float
    samples: int
    per_sample: tuple[float, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, per_sample: Sequence[float]) -> Estimate:
        """Mean and standard error (Bessel-corrected) of the errors of the samples."""
        kept = tuple(per_sample)
        count = len(kept)
        mean = math.fsum(kept) / count
        if count == 1:
            return cls(mean, 0.0, 1, kept)
        variance = math.fsum((value - mean) ** 2 for value in kept) / (count - 1)
        return cls(mean, math.sqrt(variance / count), count, kept)

    def to_json(self) -> dict[str, float]:
        """The estimate as JSON values, without the errors that it is the mean of."""
        return {"error": self.error, "error_se": self.error_se, "samples": self.samples}

    def margin(self, level: float = 0.95) -> float:
        """Half the width of Student's t interval; infinite for a single sample."""
        if self.samples < 2:
            return math.inf
        return _quantile(level, self.samples) * self.error_se

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Where the error on all data lies, with a probability of `level`: lowest and highest.

        The lower end is Student's. The upper one is Student's for the logarithm of the error,
        whose standard error is error_se / error to first order (as for densities of animals:
        Buckland et al., "Introduction to Distance Sampling", 2001, section 3.6.1): errors are
        skewed to the right, and then a few samples are likely to lie below the mean with a
        spread that is too small as well. docs/uncertainty.md has how often both cover.

        Only for means of what is never negative. An error of exactly zero on every sample is
        taken for a change that changes nothing; one sample of any other error says nothing.
        """
        if self.error <= 0:
            return 0.0, 0.0
        if self.samples < 2:
            return 0.0, math.inf
        share = min(self.margin(level) / self.error, LARGEST_EXPONENT)
        return max(self.error - self.margin(level), 0.0), self.error * math.exp(share)


def _quantile(level: float, samples: int) -> float:
    """Of Student's t, which a mean of so many samples exceeds in (1 - level) / 2 of all cases."""
    return float(stdtrit(samples - 1, (1 + level) / 2))
