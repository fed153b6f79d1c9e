"""Estimate: a mean over samples with its standard error and the interval that it states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from scipy.special import stdtrit

LARGEST_EXPONENT: Final = 700.0
"""exp of more overflows; no interval that is so wide says anything."""
LARGEST_RATIO: Final = 1e100
"""Of an error to the spread of all; no measured numbers are so far apart, and cubes overflow."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Output error of one change to the model.

    Attributes:
        error: mean over samples of their errors, in whatever metric.
        error_se: standard error of that mean; 0 for a single sample, which says nothing.
        samples: number of samples.
        per_sample: the errors that it is the mean of, in the order of the samples; empty where
            they are not known.
        own_se: standard error beside what all entries of a table have in common, where that is
            not to be had from `per_sample`; what they have in common changes no plan.
    """

    error: float
    error_se: float
    samples: int
    per_sample: tuple[float, ...] = field(default=(), repr=False)
    own_se: float | None = field(default=None, repr=False)

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

    @classmethod
    def of_errors(cls, per_sample: Sequence[float]) -> Estimate:
        """As `of`, but a mean below zero is zero.

        A user's loss may fall where a layer is rounded. That is noise of the data, or a fit to
        them, and nothing to plan by; the standard error says how far from zero it is.
        """
        estimate = cls.of(per_sample)
        return estimate if estimate.error >= 0 else replace(estimate, error=0.0)

    def to_json(self) -> dict[str, float]:
        """The estimate as JSON values, without the errors that it is the mean of."""
        return {"error": self.error, "error_se": self.error_se, "samples": self.samples}

    def margin(self, level: float = 0.95) -> float:
        """Half the width of Student's t interval; infinite for a single sample."""
        if self.samples < 2:
            return math.inf
        return _quantile(level, self.samples) * self.error_se

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Where the error on all data lies, with a probability of about `level`: its two ends.

        Errors are skewed to the right, so that a few samples are likely to lie below the true
        mean, and to spread too little as well; Student's interval then covers too rarely. Its
        upper end is therefore moved to the larger of two: that of the interval for the logarithm
        of the error, whose standard error is error_se / error to first order (Buckland et al.,
        "Introduction to Distance Sampling", 2001, section 3.6.1), and Hall's, who removes the
        skewness of t by a cubic transformation ("On the removal of skewness by transformation",
        Journal of the Royal Statistical Society B 54(1), 1992); its lower end to the lower one
        of Student's and Hall's. docs/uncertainty.md has how often all these cover.

        Only for means of what is never negative. An error of exactly zero on every sample is
        taken for a change that changes nothing; one sample of any other error says nothing.
        """
        if self.error <= 0:
            return 0.0, 0.0
        if self.samples < 2:
            return 0.0, math.inf
        margin = self.margin(level)
        least, most = self._without_skewness(level)
        logarithmic = self.error * math.exp(min(margin / self.error, LARGEST_EXPONENT))
        return max(min(self.error - margin, least), 0.0), max(logarithmic, most)

    def _without_skewness(self, level: float) -> tuple[float, float]:
        """Hall's interval; Student's where the skewness is not known or there is none."""
        quantile, a = _quantile(level, self.samples), self._skewness() / math.sqrt(self.samples)

        def student(x: float) -> float:
            # The t whose transform a ((1 + a t / 3)^3 - 1) / a + a / 6 is x.
            return x if a == 0 else 3 / a * (math.cbrt(1 + a * (x - a / 6)) - 1)

        least, most = (self.error - self.error_se * student(x) for x in (quantile, -quantile))
        return least, most

    def _skewness(self) -> float:
        """Of the population, from at least three samples (Fisher's g1 without its bias)."""
        n, spread = len(self.per_sample), self.error_se * math.sqrt(self.samples)
        if n < 3 or spread == 0:
            return 0.0
        ratios = [(value - self.error) / spread for value in self.per_sample]
        if not max(map(abs, ratios)) < LARGEST_RATIO:
            return 0.0
        cubes = math.fsum(ratio**3 for ratio in ratios)
        return cubes * n / ((n - 1) * (n - 2))


def _quantile(level: float, samples: int) -> float:
    """Of Student's t, which a mean of so many samples exceeds in (1 - level) / 2 of all cases."""
    return float(stdtrit(samples - 1, (1 + level) / 2))
