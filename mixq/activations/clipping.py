"""Ranges narrower than what was seen: percentile, least squared error, least divergence.

Each is a function of a histogram and returns (low, high) within its `low` and `high`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mixq.activations.fake import LEVELS, input_codes, input_steps
from mixq.activations.histogram import Histogram

PERCENTILE = 99.9
"""Of the numbers, how many percent a percentile range holds."""
FRACTIONS = 64
"""An end of a range is searched among 1/64, 2/64, ... of the farthest activation."""
SWEEPS = 2
"""How often both ends are searched in turn."""
DIVERGENCE_BINS = 4096
"""16 bins a level at full range, as Migacz has (2048 bins for 128 levels)."""

Range = tuple[float, float]


def percentile_range(histogram: Histogram, percentile: float = PERCENTILE) -> Range:
    """The range that leaves out at most (100 - percentile) / 2 percent on either side.

    Precise to the width of a bin, at whose outer end it lies. Few numbers leave none out.
    """
    # 100 - 99.9 is a little less than .1 in floating point.
    allowed = math.floor(histogram.total * (100 - percentile) / 200 + 1e-6)
    counts = histogram.counts.clone()
    counts[-histogram.first] += histogram.zeros  # the bin that starts at zero
    edges = histogram.edges()
    below = counts.cumsum(0) <= allowed  # bins that may be left out
    above = counts.flip(0).cumsum(0) <= allowed
    low = float(edges[int(below.sum())])
    high = float(edges[len(counts) - int(above.sum())])
    return max(low, histogram.low), min(high, histogram.high)


def squared_error_range(histogram: Histogram) -> Range:
    """The range whose rounding and clipping has the least sum of squared errors.

    A bin counts as its middle, at most half a width from any number in it; as the distance to
    the nearest representable number grows no faster than the number moves, the root of the sum
    of squares is known to within half a width times the root of the count. Only a range that is
    better by more than that is taken, so that none is ever worse than the full one.
    """
    present = histogram.counts > 0
    centers, counts = histogram.centers()[present], histogram.counts[present].double()

    def root(low: float, high: float) -> float:
        scale, zero = _steps(low, high)
        rounded = (input_codes(centers, scale, zero).double() - zero) * scale
        return math.sqrt(float(((centers - rounded).square() * counts).sum()))

    full = (histogram.low, histogram.high)
    best = _search(full, root)
    doubt = histogram.width * math.sqrt(float(counts.sum()))
    return best if root(*best) + doubt <= root(*full) else full


def divergence_range(histogram: Histogram) -> Range:
    """The range that loses the least information: least Kullback-Leibler divergence.

    Between the numbers with those outside moved to the ends, and their quantized version: each
    level's count spread evenly over the bins of it that are not empty, where what lies outside
    does not count. Both ends are searched, where the source has one threshold of magnitudes;
    exact zeros, representable with every range, are left out. As in the source, no range has
    fewer bins than there are levels, but for the full one.

    Source: Migacz, "8-bit inference with TensorRT", GTC 2017, slides 34-38.
    """
    coarse = histogram.coarsened(DIVERGENCE_BINS)
    centers, counts = coarse.centers(), coarse.counts.double()
    full = (histogram.low, histogram.high)

    def divergence(low: float, high: float) -> float:
        inside = (centers >= low) & (centers <= high)
        kept, width = counts[inside], int(inside.sum())
        if width <= LEVELS and (low, high) != full:
            return math.inf
        codes = input_codes(centers[inside], *_steps(low, high)).long()
        reference = kept.clone()
        reference[0] += counts[centers < low].sum()
        reference[-1] += counts[centers > high].sum()
        return _divergence(reference, _spread(kept, codes))

    return _search(full, divergence) if int(histogram.counts.sum()) else full


def _search(full: Range, cost: Callable[[float, float], float]) -> Range:
    """The cheapest range with ends at whole fractions of `full`, one end searched at a time.

    The wider one of equals.
    """
    best, least = full, cost(*full)
    for _ in range(SWEEPS):
        for end in (0, 1):
            if full[end] == 0:
                continue
            for step in range(FRACTIONS, 0, -1):
                moved = full[end] * step / FRACTIONS
                candidate = (moved, best[1]) if end == 0 else (best[0], moved)
                found = cost(*candidate)
                if found < least:
                    best, least = candidate, found
    return best


def _steps(low: float, high: float) -> tuple[Tensor, Tensor]:
    return input_steps(torch.tensor(low), torch.tensor(high))


def _spread(kept: Tensor, codes: Tensor) -> Tensor:
    """Each level's count spread evenly over its bins that are not empty."""
    filled = (kept > 0).double()
    sums = torch.zeros(LEVELS + 1, dtype=torch.float64).index_add_(0, codes, kept)
    bins = torch.zeros(LEVELS + 1, dtype=torch.float64).index_add_(0, codes, filled)
    return (sums / bins.clamp_min(1))[codes] * filled


def _divergence(reference: Tensor, candidate: Tensor) -> float:
    """Kullback-Leibler divergence of two unnormalized distributions [nats]."""
    present = reference > 0
    p, q = reference[present], candidate[present]
    if not bool((q > 0).all()):
        return math.inf
    p, q = p / p.sum(), q / candidate.sum()
    return float((p * (p / q).log()).sum())
