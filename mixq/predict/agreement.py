"""How well predictions agree with what was measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Final, Self

from mixq.predict.prediction import Prediction

CLOSE: Final = 0.3
"""Share of the measured value within which a prediction counts as close."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Errors of some predictions, as shares of what was measured.

    Attributes:
        count: of predictions that have a measurement beside them.
        median_error, mean_error: of |predicted / measured - 1|.
        close_share: of errors of at most `CLOSE`.
        inside_share: of measurements inside the predictions' intervals.
        rank_correlation: Spearman's; NaN below three points or where all are equal.
    """

    count: int
    median_error: float
    mean_error: float
    close_share: float
    inside_share: float
    rank_correlation: float

    @classmethod
    def of(cls, pairs: Iterable[tuple[float, Prediction]]) -> Self | None:
        """Agreement of (measured, prediction) pairs, None if there are none."""
        known = list(pairs)
        if not known:
            return None
        errors = [abs(found.predicted / measured - 1) for measured, found in known]
        return cls(
            count=len(known),
            median_error=statistics.median(errors),
            mean_error=statistics.fmean(errors),
            close_share=sum(error <= CLOSE for error in errors) / len(errors),
            inside_share=sum(p.low <= measured <= p.high for measured, p in known) / len(known),
            rank_correlation=rank_correlation(
                [measured for measured, _ in known], [found.predicted for _, found in known]
            ),
        )

    def to_json(self) -> dict[str, float | None]:
        """The numbers as JSON types; what is not defined is None."""
        return {name: None if math.isnan(v) else v for name, v in asdict(self).items()}

    @property
    def sentence(self) -> str:
        """The numbers in words."""
        return (
            f"{self.count} rows with a measurement: median error {self.median_error:.1%}, mean "
            f"{self.mean_error:.1%}, {self.close_share:.0%} within {CLOSE:.0%}, "
            f"{self.inside_share:.0%} inside low..high, rank correlation "
            f"{self.rank_correlation:.3f}"
        )


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation; NaN where it is not defined."""
    if len(first) < 3 or len(set(first)) == 1 or len(set(second)) == 1:
        return math.nan
    from scipy.stats import spearmanr

    return float(spearmanr(first, second).statistic)
