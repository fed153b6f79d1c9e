"""Roofline: the time of one kernel call from what it computes and what it moves. Pure functions.

Source: Williams, Waterman, Patterson, "Roofline: an insightful visual performance model for
multicore architectures", CACM 52(4), 2009: attainable rate = min(peak rate, bandwidth x
operations per byte), so time = max(compute time, memory time) where the two overlap perfectly.
"""

from __future__ import annotations

from typing import Final

SHARPNESS: Final = 4.0
"""Exponent of the soft maximum: 1 would be no overlap, infinity perfect overlap.

4 is the middle of the 2 to 8 that fits of published GEMM timings span; at balance it predicts
2^(1/4) = 1.19 times the roofline.
"""


def soft_maximum(first: float, second: float, sharpness: float = SHARPNESS) -> float:
    """The p-norm of two times, p = `sharpness`: at least their maximum, at most their sum."""
    low, high = sorted((first, second))
    if high == 0:
        return 0.0
    # The ratio first: powers of microseconds would underflow.
    return high * float((1 + (low / high) ** sharpness) ** (1 / sharpness))


def compute_s(macs: float, ops_per_s: float) -> float:
    """Time of the arithmetic [s]; a multiply-accumulate is two operations."""
    return 2 * macs / ops_per_s


def memory_s(moved_bytes: float, bytes_per_s: float) -> float:
    """Time of the traffic [s]."""
    return moved_bytes / bytes_per_s


def call_s(*, compute_s: float, unpack_s: float, memory_s: float, overhead_s: float) -> float:
    """Time of one kernel call [s].

    Unpacking is arithmetic, so it adds to the compute time; memory overlaps with both; the
    launch overlaps with nothing.
    """
    return overhead_s + soft_maximum(compute_s + unpack_s, memory_s)


def bound(*, compute_s: float, unpack_s: float, memory_s: float, overhead_s: float) -> str:
    """What limits that call: `compute`, `unpack`, `memory` or `launch`."""
    times = {
        "compute": compute_s,
        "unpack": unpack_s,
        "memory": memory_s,
        "launch": overhead_s,
    }
    return max(times, key=lambda name: times[name])
