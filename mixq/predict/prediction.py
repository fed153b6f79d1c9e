"""Prediction: an answer in the unit of its row, with its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final, Self

from mixq.predict.row import Row

Z80: Final = 1.2816
"""Standard deviations on each side of an interval that holds 80% of a normal distribution."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a row would measure.

    Attributes:
        predicted, low, high: in the row's unit; low to high is meant to hold the measurement in
            four cases of five.
        kernel: what would run.
        note: where the numbers come from and what was assumed, in words.
    """

    predicted: float
    low: float
    high: float
    kernel: str
    note: str = ""

    @classmethod
    def of(
        cls,
        row: Row,
        seconds: float,
        spread: float,
        *,
        kernel: str,
        note: str = "",
        things: float | None = None,
    ) -> Self:
        """A prediction in the unit of `row`.

        Args:
            row: what was asked.
            seconds: of one call.
            spread: standard deviation of log(measured / predicted).
            kernel: what would run.
            note: see the class.
            things: what a rate of the row counts in one call, where the row itself cannot say.
        """
        factor = math.exp(Z80 * spread)
        middle = row.in_unit(seconds, things)
        ends = sorted(
            (row.in_unit(seconds / factor, things), row.in_unit(seconds * factor, things))
        )
        return cls(middle, ends[0], ends[1], kernel, note)

    def wider(self, spread: float, note: str) -> Self:
        """The same with an interval that one more, independent error widens.

        Args:
            spread: its standard deviation of log(measured / predicted).
            note: where it comes from.
        """
        own = math.log(self.high / self.low) / (2 * Z80)
        factor = math.exp(Z80 * math.hypot(own, spread))
        notes = "; ".join(part for part in (note, self.note) if part)
        middle = math.sqrt(self.low * self.high)
        return replace(self, low=middle / factor, high=middle * factor, note=notes)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a row gets no prediction, in one line."""

    reason: str
