"""Histogram: counts of a stream of numbers in bounded memory, independent of how it was cut."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mixq.errors import CalibrationError

BINS = 1 << 14
"""At least 32 bins for each of 255 levels of the full range; 128 KiB."""
CHUNK = 1 << 20
"""Numbers counted at a time, which bounds the scratch memory."""
_SMALLEST_EXPONENT = -149
"""2^-149 is float32's smallest number; no finer bins are needed."""


class Histogram:
    """Counts in bins of width 2^exponent aligned to zero, from `low` to `high`.

    The width is the smallest power of two with which no more than `BINS` bins reach from the
    least to the largest number and zero. When the range grows, neighbours are merged, which is
    exact: the result depends on the numbers alone, not on their order or batches.

    Attributes:
        low: least number seen, or 0 if it is larger.
        high: largest number seen, or 0 if it is smaller.
        zeros: how many numbers are exactly zero; they are in no bin.
        counts: int64 of shape (bins,).
        first: bin i holds (first + i) x width up to (first + i + 1) x width.
        exponent: base-two logarithm of the width.
    """

    def __init__(self) -> None:
        self.low = 0.0
        self.high = 0.0
        self.zeros = 0
        self.counts = torch.zeros(1, dtype=torch.int64)
        self.first = 0
        self.exponent = _SMALLEST_EXPONENT

    @property
    def total(self) -> int:
        """How many numbers were seen."""
        return self.zeros + int(self.counts.sum())

    @property
    def width(self) -> float:
        """Width of a bin."""
        return 2.0**self.exponent

    def add(self, values: Tensor) -> None:
        """Count floating-point numbers of any shape.

        Raises:
            CalibrationError: if one is NaN or infinite.
        """
        flat = values.detach().reshape(-1).to(torch.float32)
        if flat.numel() == 0:
            return
        low, high = finite_ends(flat)
        self._cover(min(low, self.low), max(high, self.high))
        for chunk in flat.split(CHUNK):
            kept = chunk[chunk != 0].cpu()
            self.zeros += chunk.numel() - kept.numel()
            # Exact: a power of two, in float64.
            index = kept.to(torch.float64).mul_(2.0**-self.exponent).floor_().to(torch.int64)
            self.counts += torch.bincount(index - self.first, minlength=len(self.counts))

    def centers(self) -> Tensor:
        """Middle of the part of each bin that lies within low..high, float64 of shape (bins,)."""
        edges = self.edges().clamp(self.low, self.high)
        return (edges[:-1] + edges[1:]) / 2

    def edges(self) -> Tensor:
        """Ends of the bins, float64 of shape (bins + 1,)."""
        index = torch.arange(self.first, self.first + len(self.counts) + 1, dtype=torch.float64)
        return index * self.width

    def coarsened(self, bins: int) -> Histogram:
        """A copy with no more than `bins` bins."""
        copy = Histogram()
        copy.low, copy.high, copy.zeros = self.low, self.high, self.zeros
        copy.counts, copy.first, copy.exponent = self.counts, self.first, self.exponent
        copy._cover(self.low, self.high, bins)
        return copy

    def _cover(self, low: float, high: float, bins: int = BINS) -> None:
        """Make room for low..high in no more than `bins` bins."""
        exponent = max(self.exponent, _exponent(low, high, bins))
        shift = exponent - self.exponent
        index = torch.arange(self.first, self.first + len(self.counts)) >> shift
        first = _bin(low, exponent)
        counts = torch.zeros(_bin(high, exponent) - first + 1, dtype=torch.int64)
        # An empty histogram's one bin need not lie within the new range.
        seen = self.counts > 0
        counts.index_add_(0, (index - first)[seen], self.counts[seen])
        self.low, self.high, self.counts = low, high, counts
        self.first, self.exponent = first, exponent


def finite_ends(values: Tensor) -> tuple[float, float]:
    """Least and largest of numbers that are not empty.

    Raises:
        CalibrationError: if one is NaN or infinite.
    """
    low, high = (float(end) for end in values.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise CalibrationError(
            "the activations hold NaN or infinity, which have no range; find the layer that "
            "makes them, or leave out the samples that do"
        )
    return low, high


def _bin(value: float, exponent: int) -> int:
    """Index of the bin that holds `value`; exact, for scaling by a power of two rounds nothing."""
    return math.floor(math.ldexp(value, -exponent))


def _exponent(low: float, high: float, bins: int) -> int:
    """Smallest exponent with which low..high takes no more than `bins` bins."""
    exponent = _SMALLEST_EXPONENT
    if high > low:
        # One below what a range of this width needs at best; the loop adds at most two.
        exponent = max(math.frexp((high - low) / bins)[1] - 2, exponent)
    while _bin(high, exponent) - _bin(low, exponent) >= bins:
        exponent += 1
    return exponent
