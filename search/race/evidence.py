"""Evidence: what is known of the error of each unit in each format, from few samples.

An entry, a format of a unit, is *sketched*, *measured* on the first samples, or both. Samples
differ by a factor that all entries share, so an entry that was measured on fewer samples is scaled
by how the others changed on more (the ratio estimate of Cochran, "Sampling Techniques", 3rd ed.
1977, chapter 6); one that was only sketched by how far measured entries of the same width lie from
their sketches, which mends most of what saturation hides from gradients.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from mixq.formats import Format
from mixq.sensitivity.estimate import Estimate

Entry = tuple[str, Format]

FIRST_SPREAD: Final = 0.35
"""Of one sample's errors, relative and beside what all entries share, before it is known."""
FIRST_COMMON: Final = 0.5
"""Of what all entries share in one sample, before it is known."""
SATURATION: Final = 0.3
"""How far sketches lie from what is measured, beside their own noise, before it is known."""
FEW: Final = 8
"""Entries below which a spread or a factor is not yet known."""


@dataclass(frozen=True, slots=True)
class Belief:
    """What an error may be.

    Attributes:
        error: its mean on the samples that most is known of.
        spread: relative standard error beside other entries, what all share left out.
    """

    error: float
    spread: float


@dataclass
class Evidence:
    """Sketches and measurements of entries.

    Attributes:
        sketched: estimates from gradients.
        sketch_spread: relative standard error of sketches that is due to their random signs.
        measured: output errors of the first samples, as many as were measured.
    """

    sketched: Mapping[Entry, Estimate]
    sketch_spread: float
    measured: dict[Entry, list[float]] = field(default_factory=dict)
    _levels: dict[Entry, int] = field(default_factory=dict)

    def level(self, entry: Entry) -> int:
        """How often measurements of an entry were added."""
        return self._levels.get(entry, 0)

    def add(self, entry: Entry, errors: Sequence[float]) -> None:
        """Add measurements of an entry on the samples that follow those known so far."""
        self.measured.setdefault(entry, []).extend(errors)
        self._levels[entry] = self.level(entry) + 1

    @property
    def compares_samples(self) -> bool:
        """Whether enough is measured on several samples to know how much these differ."""
        return sum(level > 1 for level in self._levels.values()) >= FEW

    def beliefs(self) -> dict[Entry, Belief]:
        """What is believed of every entry that there is evidence of."""
        most = max(map(len, self.measured.values()), default=0)
        spread, _ = self._spreads(most)
        factors = {n: self._growth(n, most) for n in {len(r) for r in self.measured.values()}}
        measured = {
            entry: Belief(
                max(math.fsum(row) / len(row) * factors[len(row)], 0.0),
                spread / math.sqrt(len(row)),
            )
            for entry, row in self.measured.items()
        }
        ratios = _Ratios(self.sketched, measured)
        corrected = {
            entry: ratios.corrected(entry[1].bits, sketch.error, self.sketch_spread)
            for entry, sketch in self.sketched.items()
        }
        # Measured on all samples of its sketch, an entry has nothing to learn from it.
        fused = {
            entry: _fused(measured[entry], corrected[entry])
            for entry, sketch in self.sketched.items()
            if 0 < len(self.measured.get(entry, ())) < sketch.samples
        }
        return corrected | measured | fused

    def estimates(self) -> dict[Entry, Estimate]:
        """The same with standard errors of the errors themselves, what all share counted."""
        most = max(map(len, self.measured.values()), default=0)
        _, common = self._spreads(most)
        return {
            entry: Estimate(
                belief.error,
                belief.error * math.hypot(belief.spread, common / math.sqrt(max(most, 1))),
                len(self.measured.get(entry, ())) or most or 1,
                own_se=belief.error * belief.spread,
            )
            for entry, belief in self.beliefs().items()
        }

    def _spreads(self, most: int) -> tuple[float, float]:
        """Standard deviations over samples of logarithms of errors: each entry's own, and common.

        From the entries that are measured on most samples, by a two-way analysis of variance.
        """
        rows = [
            [math.log(value) for value in row]
            for row in self.measured.values()
            if len(row) == most and min(row) > 0
        ]
        if most < 2 or len(rows) < FEW:
            return FIRST_SPREAD, FIRST_COMMON
        columns = [statistics.fmean(column) for column in zip(*rows, strict=True)]
        middle = statistics.fmean(columns)
        squares = math.fsum(
            (value - statistics.fmean(row) - column + middle) ** 2
            for row in rows
            for value, column in zip(row, columns, strict=True)
        )
        own = squares / ((len(rows) - 1) * (most - 1))
        common = max(statistics.variance(columns) - own / len(rows), 0.0)
        return math.sqrt(own), math.sqrt(common)

    def _growth(self, count: int, most: int) -> float:
        """How much larger errors are on `most` samples than on the first `count`."""
        logs = [
            math.log((math.fsum(row) / most) / (math.fsum(row[:count]) / count))
            for row in self.measured.values()
            if len(row) == most and math.fsum(row[:count]) > 0 and math.fsum(row) > 0
        ]
        return math.exp(statistics.fmean(logs)) if logs else 1.0


class _Ratios:
    """How far measured entries lie from their sketches, by width."""

    def __init__(
        self, sketched: Mapping[Entry, Estimate], measured: Mapping[Entry, Belief]
    ) -> None:
        self._logs: dict[int, list[float]] = {}
        self._variances: dict[int, list[float]] = {}
        for (unit, fmt), belief in measured.items():
            sketch = sketched.get((unit, fmt))
            if sketch is not None and sketch.error > 0 and belief.error > 0:
                self._logs.setdefault(fmt.bits, []).append(math.log(belief.error / sketch.error))
                self._variances.setdefault(fmt.bits, []).append(belief.spread**2)

    @cached_property
    def _everywhere(self) -> float:
        logs = [value for row in self._logs.values() for value in row]
        return math.exp(statistics.median(logs)) if len(logs) >= FEW else 1.0

    def corrected(self, bits: int, error: float, noise: float) -> Belief:
        """What a sketch of this width says, its spread without that of what is measured."""
        logs = self._logs.get(bits, [])
        if len(logs) < FEW:
            return Belief(error * self._everywhere, math.hypot(SATURATION, noise))
        middle = statistics.median(logs)
        square = math.fsum((value - middle) ** 2 for value in logs) / (len(logs) - 1)
        own = square - statistics.fmean(self._variances[bits])
        return Belief(error * math.exp(middle), math.sqrt(max(own, square / FEW)))


def _fused(measured: Belief, sketched: Belief) -> Belief:
    """Both together: logarithms weighted by the inverse of their variances."""
    if measured.error <= 0 or sketched.error <= 0:
        return measured
    total = measured.spread**2 + sketched.spread**2
    if total == 0:
        return measured
    share = sketched.spread**2 / total
    error = measured.error**share * sketched.error ** (1 - share)
    return Belief(error, measured.spread * math.sqrt(share))
