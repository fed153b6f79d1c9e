"""Spread: how far predicted times may be off, from the spreads of the kernels in them.

A kernel's `spread` is the standard deviation of log(measured / predicted) over the calls that it
was fitted to. The errors of one kernel's calls move together (its efficiency is fitted too high or
too low), those of different kernels are independent, so that with T_k the time of kernel k and s_k
its spread a sum T of times has, to first order,

    sd(log T)^2 = sum_k (T_k / T * s_k)^2

and a quotient of two sums B / T, in which errors of kernels that both use cancel,

    sd(log(B / T))^2 = sum_k ((B_k / B - T_k / T) * s_k)^2.

Logarithms are taken for normal: 80% of outcomes lie within 1.2816 standard deviations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

QUANTILE_80: Final = 1.2815515594
"""Of the normal distribution at 90%: 10% lie below the interval, 10% above."""
ASSUMED_SPREAD: Final = 0.35
"""Of what no kernel of the profile does: dequantizing before the product."""


@dataclass(frozen=True, slots=True)
class KernelTime:
    """Time that one kernel's calls take together.

    Attributes:
        kernel: its name.
        latency_s: of its calls.
        spread: of log(measured / predicted).
    """

    kernel: str
    latency_s: float
    spread: float


@dataclass(frozen=True, slots=True)
class Interval:
    """80% of outcomes lie between `low` and `high`."""

    low: float
    high: float


def by_kernel(times: Iterable[KernelTime]) -> tuple[KernelTime, ...]:
    """One entry for each kernel, in the order in which they first appear."""
    sums: dict[str, list[float]] = {}
    spreads: dict[str, float] = {}
    for time in times:
        sums.setdefault(time.kernel, []).append(time.latency_s)
        spreads[time.kernel] = max(spreads.get(time.kernel, 0.0), time.spread)
    return tuple(KernelTime(name, math.fsum(own), spreads[name]) for name, own in sums.items())


def interval(times: Iterable[KernelTime]) -> Interval:
    """Of the sum of times [s]."""
    found = by_kernel(times)
    total = math.fsum(time.latency_s for time in found)
    if total == 0:
        return Interval(0.0, 0.0)
    deviation = math.hypot(*(time.latency_s / total * time.spread for time in found))
    return _around(total, deviation)


def ratio_interval(base: Iterable[KernelTime], own: Iterable[KernelTime]) -> Interval | None:
    """Of the quotient of two sums, base over own; None if either is zero."""
    spreads: dict[str, float] = {}
    sides: list[Mapping[str, float]] = []
    for times in (base, own):
        found = by_kernel(times)
        for time in found:
            spreads[time.kernel] = max(spreads.get(time.kernel, 0.0), time.spread)
        sides.append({time.kernel: time.latency_s for time in found})
    totals = [math.fsum(side.values()) for side in sides]
    if min(totals) == 0:
        return None
    deviation = math.hypot(
        *(
            (sides[0].get(name, 0.0) / totals[0] - sides[1].get(name, 0.0) / totals[1]) * spread
            for name, spread in spreads.items()
        )
    )
    return _around(totals[0] / totals[1], deviation)


def _around(middle: float, deviation: float) -> Interval:
    factor = math.exp(QUANTILE_80 * deviation)
    return Interval(middle / factor, middle * factor)
