"""Sums: many sums of floats at once, each rounded as `math.fsum` rounds it.

A running sum keeps its rounding error beside it (`two_sum`), so that both together are off by the
rounding of the errors alone. Where that cannot move the rounded total, the total is certain.

Source: Ogita, Rump, Oishi, "Accurate sum and dot product", SIAM Journal on Scientific Computing
26(6), 2005: Algorithm 3.1 (TwoSum, after Knuth) and the error bound of Algorithm 4.1 (Sum2).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

Change = tuple[Sequence[float], Sequence[float]]

_UNIT_ROUNDOFF: Final = 2.0**-53


def two_sum(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """The rounded sum and what it leaves out: a + b = sum + rest exactly."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def rounded(sums: Floats, rests: Floats, terms: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Totals sums + rests, and which of them are certainly the correctly rounded sum.

    Args:
        sums: of terms that are not negative, added one by one; shape (n,).
        rests: what the additions left out, added one by one; shape (n,).
        terms: number of additions, at most.
    """
    totals, left = two_sum(sums, rests)
    # Sum2 is off by gamma(terms)^2 x the sum of the terms, with gamma(n) = n u / (1 - n u); twice
    # that covers the rounded `sums` and the rounding here.
    doubt = 2 * (terms * _UNIT_ROUNDOFF) ** 2 * sums
    below = totals - np.nextafter(totals, -np.inf)
    certain: NDArray[np.bool_] = np.abs(left) + doubt < below / 2
    return totals, certain


def running(start: Sequence[float], changes: Iterable[Change]) -> Floats:
    """The sum of `start`, and of what every change leaves of it; shape (1 + changes,).

    Exact: floats are integers over a power of two, and the quotient of integers is correctly
    rounded.

    Args:
        start: terms.
        changes: terms that leave the sum and terms that take their place, one after another.
    """
    changes = list(changes)
    floats = chain(start, *chain.from_iterable(changes))
    scale = max((value.as_integer_ratio()[1] for value in floats), default=1)

    def exact(values: Sequence[float]) -> int:
        ratios = (value.as_integer_ratio() for value in values)
        return sum(above * (scale // below) for above, below in ratios)

    total = exact(start)
    totals = [total / scale]
    for gone, come in changes:
        total += exact(come) - exact(gone)
        totals.append(total / scale)
    return np.array(totals)
