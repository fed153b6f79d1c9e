from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixq.cost.roofline import SHARPNESS, bound, call_s, compute_s, memory_s, soft_maximum

law = settings(derandomize=True, deadline=None, max_examples=200)
times = st.floats(0, 1e6, allow_subnormal=False)


# Williams, Waterman, Patterson, CACM 52(4), 2009, section "The roofline model": a dual-socket
# Opteron X2 has a peak of 17.6 GFlop/s and sustains 15 GB/s, so the ridge lies at 17.6 / 15 =
# 1.17 flop per byte; left of it the attainable rate is bandwidth x intensity, right of it the
# peak.
PEAK_OPS_PER_S, BYTES_PER_S = 17.6e9, 15e9


@pytest.mark.parametrize(
    ("ops_per_byte", "attainable_ops_per_s"),
    [(1 / 8, 15e9 / 8), (0.5, 7.5e9), (16.0, 17.6e9), (64.0, 17.6e9)],
    ids=["sparse", "stencil", "dense", "very-dense"],
)
def test_opteron_of_the_roofline_paper(ops_per_byte: float, attainable_ops_per_s: float) -> None:
    macs = 10**12
    moved_bytes = round(2 * macs / ops_per_byte)
    time_s = call_s(
        compute_s=compute_s(macs, PEAK_OPS_PER_S),
        unpack_s=0.0,
        memory_s=memory_s(moved_bytes, BYTES_PER_S),
        overhead_s=0.0,
    )
    attained = 2 * macs / time_s
    # Far from the ridge the soft corner is within (1/2) ^ 4 / 4 = 1.6% of the roof, below it.
    assert attainable_ops_per_s * (1 - 0.016) <= attained <= attainable_ops_per_s


def test_ridge_is_two_to_the_quarter_below_the_roof() -> None:
    assert soft_maximum(3.0, 3.0) == pytest.approx(3 * 2 ** (1 / SHARPNESS), rel=1e-15)


@law
@given(times, times)
def test_between_perfect_overlap_and_none(first: float, second: float) -> None:
    soft = soft_maximum(first, second)
    assert max(first, second) <= soft <= (first + second) * (1 + 1e-15)
    assert soft == soft_maximum(second, first)


@law
@given(st.floats(1e-30, 1e30), st.floats(1e-30, 1e30), st.floats(1e-6, 1e6))
def test_unit_of_time_does_not_matter(first: float, second: float, scale: float) -> None:
    scaled = soft_maximum(first * scale, second * scale)
    assert math.isclose(scaled, soft_maximum(first, second) * scale, rel_tol=1e-14)


@pytest.mark.parametrize(
    ("times_s", "name"),
    [
        ((4.0, 1.0, 1.0, 1.0), "compute"),
        ((1.0, 4.0, 1.0, 1.0), "unpack"),
        ((1.0, 1.0, 4.0, 1.0), "memory"),
        ((1.0, 1.0, 1.0, 4.0), "launch"),
    ],
)
def test_bound(times_s: tuple[float, float, float, float], name: str) -> None:
    compute, unpack, memory, overhead = times_s
    assert bound(compute_s=compute, unpack_s=unpack, memory_s=memory, overhead_s=overhead) == name


def test_unpacking_adds_to_compute_and_launch_to_everything() -> None:
    assert call_s(compute_s=1.0, unpack_s=2.0, memory_s=0.0, overhead_s=0.5) == 3.5
