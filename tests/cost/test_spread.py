from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixq.cost.spread import QUANTILE_80, Interval, KernelTime, interval, ratio_interval

TIMES = st.lists(
    st.builds(
        KernelTime,
        st.sampled_from(["gemm", "conv", "gather", "elementwise"]),
        st.floats(1e-6, 1.0),
        st.floats(0.01, 1.0),
    ),
    min_size=1,
    max_size=8,
)


def test_the_errors_of_one_kernel_move_together() -> None:
    one = interval([KernelTime("gemm", 2.0, 0.1)])
    many = interval([KernelTime("gemm", 0.5, 0.1)] * 4)
    assert many == one
    assert one.high == pytest.approx(2.0 * math.exp(QUANTILE_80 * 0.1))
    assert one.low == pytest.approx(2.0 * math.exp(-QUANTILE_80 * 0.1))


def test_the_errors_of_two_kernels_are_independent() -> None:
    found = interval([KernelTime("a", 1.0, 0.1), KernelTime("b", 1.0, 0.1)])
    assert found.high == pytest.approx(2.0 * math.exp(QUANTILE_80 * 0.1 / math.sqrt(2)))


def test_no_time_has_no_interval() -> None:
    assert interval([]) == Interval(0.0, 0.0)
    assert ratio_interval([], [KernelTime("a", 1.0, 0.1)]) is None


def test_what_two_plans_share_cancels_in_their_ratio() -> None:
    base = [KernelTime("a", 4.0, 0.5)]
    assert ratio_interval(base, [KernelTime("a", 2.0, 0.5)]) == Interval(2.0, 2.0)
    other = ratio_interval(base, [KernelTime("b", 2.0, 0.5)])
    assert other is not None
    assert other.high == pytest.approx(2.0 * math.exp(QUANTILE_80 * math.hypot(0.5, 0.5)))


@given(TIMES)
def test_the_sum_lies_within_its_interval(times: list[KernelTime]) -> None:
    total = math.fsum(time.latency_s for time in times)
    found = interval(times)
    assert 0 < found.low <= total <= found.high
    widest = max(time.spread for time in times)
    assert found.high <= total * math.exp(QUANTILE_80 * widest) * (1 + 1e-9)


@given(TIMES, TIMES)
def test_a_ratio_is_no_less_certain_than_its_sides(
    base: list[KernelTime], own: list[KernelTime]
) -> None:
    found = ratio_interval(base, own)
    assert found is not None
    middle = math.fsum(t.latency_s for t in base) / math.fsum(t.latency_s for t in own)
    assert found.low <= middle * (1 + 1e-9)
    assert found.high >= middle * (1 - 1e-9)
