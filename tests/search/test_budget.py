from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixq.errors import InfeasibleError, UsageError
from mixq.formats import Format
from mixq.search.budget import Budget, check_feasible
from mixq.search.choice import Choice
from mixq.search.limits import Limits
from mixq.search.problem import Problem

W2, W8, W32 = Format(2), Format(8), Format(32)
LAWS = settings(derandomize=True, deadline=None, max_examples=100)


TICK = 2.0**-10
"""About a millisecond; sums of ticks are exact."""


def problem() -> Problem:
    """Small is slow: two units whose 2-bit kernel is slower than the 8-bit one."""
    choices = (
        Choice(W2, 0.25, 1_000_000, 4 * TICK),
        Choice(W8, 0.0625, 3_000_000, TICK),
        Choice(W32, 0.0, 12_000_000, 2 * TICK),
    )
    return Problem(
        {"a": choices, "b": choices},
        original_bytes=25_000_000,
        other_bytes=1_000_000,
        other_latency_s=TICK,
        constant_memory_bytes=5_000_000,
    )


ALL: dict[str, Any] = {
    "compression": 4.0,
    "max_size_bytes": 10**7,
    "max_latency_s": 0.01,
    "min_speedup": 1.5,
    "max_memory_bytes": 10**8,
    "max_error": 0.5,
    "max_metric_drop": 0.01,
}
OPTIONS = {
    "compression": "--target-compression",
    "max_size_bytes": "--max-size-mb",
    "max_latency_s": "--max-latency-ms",
    "min_speedup": "--min-speedup",
    "max_memory_bytes": "--max-memory-mb",
    "max_error": "--max-error",
    "max_metric_drop": "--max-metric-drop",
}


@pytest.mark.parametrize("name", sorted(ALL))
@pytest.mark.parametrize("value", [-1, math.nan, math.inf, 0], ids=str)
def test_refuses_what_is_no_demand(name: str, value: Any) -> None:
    demand = {name: value}
    if value == 0 and name in ("max_error", "max_metric_drop"):
        Budget(**demand)
        return
    with pytest.raises(UsageError, match=OPTIONS[name]) as refusal:
        Budget(**demand)
    assert refusal.value.exit_status == 2


def test_to_dict_has_only_what_was_given() -> None:
    assert Budget().to_dict() == {}
    assert Budget(compression=4.0, max_error=0.0).to_dict() == {"compression": 4.0, "max_error": 0}
    assert Budget(**ALL).to_dict() == ALL


@pytest.mark.parametrize(
    ("budget", "limits"),
    [
        (Budget(), Limits()),
        (Budget(compression=4.0), Limits(weight_bytes=6_250_000)),
        (Budget(compression=3.0), Limits(weight_bytes=8_333_333)),
        (Budget(max_size_bytes=7), Limits(weight_bytes=7)),
        (Budget(max_memory_bytes=9_000_000), Limits(weight_bytes=4_000_000)),
        (Budget(max_memory_bytes=10), Limits(weight_bytes=-4_999_990)),
        (
            Budget(compression=4.0, max_size_bytes=7_000_000, max_memory_bytes=11_000_000),
            Limits(weight_bytes=6_000_000),
        ),
        (Budget(max_latency_s=0.5), Limits(latency_s=0.5)),
        (Budget(min_speedup=2.0), Limits(latency_s=0.25)),
        (Budget(max_latency_s=0.125, min_speedup=2.0), Limits(latency_s=0.125)),
        (Budget(max_error=0.0, max_metric_drop=0.1), Limits(error=0.0)),
    ],
    ids=[
        "none", "compression", "compression-floor", "size", "memory", "memory-below-constant",
        "least-of-sizes", "latency", "speedup", "least-of-times", "error",
    ],
)  # fmt: skip
def test_limits(budget: Budget, limits: Limits) -> None:
    assert budget.limits(problem(), baseline_latency_s=0.5) == limits


@LAWS
@given(st.floats(0.5, 40.0))
def test_byte_limit_is_the_largest_that_keeps_the_compression(compression: float) -> None:
    limit = Budget(compression=compression).limits(problem()).weight_bytes
    assert limit is not None
    assert problem().original_bytes / limit >= compression
    # One byte more falls short before rounding; afterwards it may just reach the demand.
    assert problem().original_bytes / (limit + 1) <= compression


@LAWS
@given(st.floats(0.1, 40.0), st.floats(1e-6, 10.0))
def test_latency_limit_keeps_the_speedup(speedup: float, baseline_s: float) -> None:
    limit_s = Budget(min_speedup=speedup).limits(problem(), baseline_s).latency_s
    assert limit_s is not None
    assert baseline_s / limit_s >= speedup
    assert baseline_s / (limit_s * (1 + 4 * 2.0**-52)) <= speedup


@pytest.mark.parametrize("baseline_s", [None, 0.0, math.inf, math.nan], ids=str)
def test_speedup_needs_a_baseline(baseline_s: float | None) -> None:
    with pytest.raises(UsageError, match="--min-speedup"):
        Budget(min_speedup=2.0).limits(problem(), baseline_s)


@pytest.mark.parametrize(
    ("budget", "name", "text"),
    [
        (Budget(compression=8.34), "compression", "1 to 8.333"),
        (Budget(max_size_bytes=2_999_999), "max_size_bytes", "3 to 25 MB"),
        (Budget(max_latency_s=2.9 * TICK), "max_latency_s", "2.93 to 8.79 ms"),
        (Budget(min_speedup=1.7), "min_speedup", "0.5555 to 1.666"),
        (Budget(max_memory_bytes=7_999_999), "max_memory_bytes", "8 to 30 MB"),
        (Budget(max_memory_bytes=1), "max_memory_bytes", "8 to 30 MB"),
    ],
    ids=["compression", "size", "latency", "speedup", "memory", "memory-below-constant"],
)
def test_one_impossible_demand_names_its_range(budget: Budget, name: str, text: str) -> None:
    with pytest.raises(InfeasibleError) as refusal:
        check_feasible(problem(), budget, baseline_latency_s=5 * TICK)
    assert refusal.value.exit_status == 3
    assert refusal.value.ranges == {name: text}
    assert f"{OPTIONS[name]}: {text}" in str(refusal.value)
    assert "together" not in str(refusal.value)


def test_an_impossible_error_names_its_range() -> None:
    pinned = problem().pinned({"a": 8})
    with pytest.raises(InfeasibleError) as refusal:
        check_feasible(pinned, Budget(max_error=0.05))
    assert refusal.value.ranges == {"max_error": "0.0625 to 0.3125"}


def test_every_demand_is_named_even_where_only_one_is_impossible() -> None:
    budget = Budget(compression=9.0, max_latency_s=4 * TICK, max_metric_drop=0.1)
    with pytest.raises(InfeasibleError) as refusal:
        check_feasible(problem(), budget)
    assert refusal.value.ranges == {
        "compression": "1 to 8.333",
        "max_latency_s": "2.93 to 8.79 ms",
        "max_metric_drop": "known once measured",
    }
    assert str(refusal.value).startswith("--target-compression 9 cannot be met")


@pytest.mark.parametrize(
    ("budget", "hint"),
    [
        # 3.57 or more needs one unit at 2 bits: 1 + 4 + 1 ticks.
        (Budget(compression=4.0, max_latency_s=5.9 * TICK), "the latency is at least 5.86 ms"),
        (Budget(compression=3.5, max_error=0.1), "the error is at least 0.125"),
        (Budget(max_latency_s=5.9 * TICK, max_size_bytes=6_999_999), "the size is at least 7 MB"),
        (Budget(max_error=0.2, max_latency_s=3 * TICK, compression=7.0), "together"),
    ],
    ids=["bytes-and-latency", "bytes-and-error", "size-and-latency", "three"],
)
def test_demands_that_exclude_each_other(budget: Budget, hint: str) -> None:
    with pytest.raises(InfeasibleError, match="alone but not together") as refusal:
        check_feasible(problem(), budget)
    assert hint in str(refusal.value)
    assert set(refusal.value.ranges) == set(budget.to_dict())
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "budget",
    [
        Budget(),
        Budget(max_metric_drop=0.0),
        Budget(max_size_bytes=5_000_000, max_latency_s=6 * TICK),
        Budget(compression=5.0, max_latency_s=6 * TICK, max_error=0.3125),
        Budget(max_memory_bytes=12_000_000, max_error=0.125),
    ],
    ids=["none", "metric", "size-and-latency", "three", "memory-and-error"],
)
def test_demands_met_to_the_last_bit(budget: Budget) -> None:
    check_feasible(problem(), budget)


NUMBERS = st.integers(0, 16).map(lambda n: n / 8)


@LAWS
@given(
    st.lists(st.lists(st.tuples(NUMBERS, st.integers(1, 9), NUMBERS), min_size=1, max_size=3),
             min_size=1, max_size=4),
    st.none() | st.integers(1, 40),
    st.none() | st.integers(1, 64).map(lambda n: n / 8),
    st.none() | st.integers(0, 64).map(lambda n: n / 8),
)  # fmt: skip
def test_feasible_exactly_where_brute_force_says_so(
    rows: list[list[tuple[float, int, float]]],
    size: int | None,
    latency_s: float | None,
    error: float | None,
) -> None:
    choices = {
        f"u{i}": tuple(Choice(f, e, b, t) for f, (e, b, t) in zip((W2, W8, W32), row))  # noqa: B905
        for i, row in enumerate(rows)
    }
    case = Problem(choices, original_bytes=100)
    budget = Budget(max_size_bytes=size, max_latency_s=latency_s, max_error=error)
    limits = budget.limits(case)
    totals = (
        case.evaluate({u: c.format for u, c in zip(choices, chosen, strict=True)})
        for chosen in itertools.product(*choices.values())
    )
    if any(limits.allow(each) for each in totals):
        check_feasible(case, budget)
    else:
        with pytest.raises(InfeasibleError):
            check_feasible(case, budget)
