"""LogAxis: a logarithmic axis with readable ticks and a place for zero."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

MARGIN: Final = 0.06
"""Free share of the axis beyond the outermost values."""
LEAST_MARGIN_DECADES: Final = 0.02
"""Margin around one value alone, or values that hardly differ."""
ZERO_GAP_DECADES: Final = 0.5
"""How far under the smallest positive value zero is drawn, beside a tenth of the span."""
DECADES_ALONE: Final = 2.5
"""From this span on, in decades, powers of ten are ticks enough."""
DIGITS_FROM: Final = 0.8
"""From this span on, in decades, the ticks are 1, 2, 3, 5, 7; below, they are evenly spaced."""
SUPERSCRIPTS: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, slots=True)
class LogAxis:
    """A range of positive numbers, seen by their logarithm.

    Attributes:
        low: left or lower end.
        high: right or upper end.
        zero: where zero is drawn, below everything else; None if no value is zero.
    """

    low: float
    high: float
    zero: float | None = None

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """The axis on which all `values`, none of them negative, can be seen."""
        numbers = sorted(set(values))
        positive = [math.log10(value) for value in numbers if value > 0]
        if not positive:
            return cls(0.8, 1.25, zero=1.0)
        low, high = positive[0], positive[-1]
        zero = None
        if numbers[0] == 0:
            low -= ZERO_GAP_DECADES + (high - low) / 10
            zero = 10**low
        margin = max(MARGIN * (high - low), LEAST_MARGIN_DECADES)
        return cls(10 ** (low - margin), 10 ** (high + margin), zero)

    @property
    def decades(self) -> float:
        """Length of the axis in powers of ten."""
        return math.log10(self.high) - math.log10(self.low)

    def place(self, value: float) -> float:
        """Where `value` is drawn: itself, unless it is zero."""
        return value if value > 0 or self.zero is None else self.zero

    def ticks(self) -> tuple[float, ...]:
        """About five to ten round numbers within the axis, all well above the place of zero."""
        floor = self.low if self.zero is None else self.zero * 1.5
        if floor >= self.high:
            return ()
        if self.decades >= DECADES_ALONE:
            every = max(1, round(self.decades / 8))
            powers = range(math.floor(math.log10(floor)), math.ceil(math.log10(self.high)) + 1)
            ticks = [float(f"1e{power}") for power in powers if power % every == 0]
        elif self.decades >= DIGITS_FROM:
            powers = range(math.floor(math.log10(floor)), math.ceil(math.log10(self.high)) + 1)
            ticks = [float(f"{digit}e{power}") for power in powers for digit in (1, 2, 3, 5, 7)]
        else:
            ticks = _even_ticks(floor, self.high)
        return tuple(tick for tick in ticks if floor <= tick <= self.high)


def _even_ticks(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten from `low` to `high`, three to eight."""
    least_step = (high - low) / 8
    power = math.floor(math.log10(least_step))
    digit = next(digit for digit in (1, 2, 5, 10) if digit * 10**power >= least_step)
    step = digit * 10.0**power
    counts = range(math.ceil(low / step), math.floor(high / step) + 1)
    # Read from text, so that 3 x 10^-1 is 0.3 and not 0.30000000000000004.
    return [float(f"{count * digit}e{power}") for count in counts]


def number_label(value: float) -> str:
    """A short label: `0.02`, `30`, `10⁻⁶`, `2·10⁻⁶`; six digits at most."""
    if 1e-3 <= value < 1e5:
        return f"{value:.6g}"
    mantissa, power = f"{value:.5e}".split("e")
    base = f"10{str(int(power)).translate(SUPERSCRIPTS)}"
    digits = f"{float(mantissa):g}"
    return base if digits == "1" else f"{digits}·{base}"
