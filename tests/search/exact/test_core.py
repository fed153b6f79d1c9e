"""Core: the same optimum as brute force, as the whole frontier, and as HiGHS."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixq.errors import InfeasibleError
from mixq.formats import Format
from mixq.search.choice import Choice
from mixq.search.exact import core as module
from mixq.search.exact.core import Core
from mixq.search.exact.milp import minimise
from mixq.search.frontier import build_frontier
from mixq.search.limits import Limits, Totals
from mixq.search.problem import Problem
from mixq.search.solve import solve

FORMATS = (Format(2), Format(4), Format(8), Format(32))
LAWS = settings(derandomize=True, deadline=None, max_examples=150)
SIXTEENTHS = st.integers(0, 64).map(lambda n: n / 16)
"""Sums of these are exact in floating point."""
ANY_SIZE = st.floats(-12, 12).map(lambda exponent: 10.0**exponent)


@st.composite
def problems(draw: st.DrawFn, numbers: st.SearchStrategy[float]) -> Problem:
    choices = {
        f"u{unit}": tuple(
            Choice(fmt, draw(numbers), draw(st.integers(1, 40)), 0.0)
            for fmt in FORMATS[: draw(st.integers(1, 4))]
        )
        for unit in range(draw(st.integers(1, 5)))
    }
    problem = Problem(choices, original_bytes=1000, other_bytes=3)
    first = set(FORMATS[: min(map(len, choices.values()))])
    tied = [unit for unit in choices if first <= {c.format for c in choices[unit]}]
    return problem.tied([tied[:2]]) if draw(st.booleans()) else problem


def totals(problem: Problem, budget: int) -> Totals | None:
    found = Core.of(problem).solve(budget)
    if found is None:
        return None
    return problem.evaluate(problem.picked(found.picks))


def least(problem: Problem, budget: int) -> tuple[float, int] | None:
    """By trying everything."""
    every = [
        problem.evaluate(
            {u: f for item, f in zip(problem.items, chosen, strict=True) for u in item.units}
        )
        for chosen in itertools.product(*(item.formats for item in problem.items))
    ]
    fitting = [(t.error, t.weight_bytes) for t in every if t.weight_bytes <= budget]
    return min(fitting, default=None)


@LAWS
@given(problems(SIXTEENTHS), st.integers(0, 220))
def test_it_equals_brute_force_exactly(problem: Problem, budget: int) -> None:
    """In error, and of equal errors in bytes."""
    found = totals(problem, budget)
    assert (found and (found.error, found.weight_bytes)) == least(problem, budget)


@LAWS
@given(problems(ANY_SIZE), st.integers(0, 220))
def test_errors_of_any_size(problem: Problem, budget: int) -> None:
    """To the rounding of sums of five."""
    found, expected = totals(problem, budget), least(problem, budget)
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert found.error == pytest.approx(expected[0], rel=1e-15 * 10)
        assert found.weight_bytes <= budget


@LAWS
@given(problems(SIXTEENTHS))
def test_it_meets_every_point_of_the_frontier(problem: Problem) -> None:
    frontier = build_frontier(problem)
    for index in range(len(frontier)):
        point = frontier.point(index)
        found = totals(problem, point.weight_bytes)
        assert found is not None
        assert (found.error, found.weight_bytes) == (point.error, point.weight_bytes)


def large(units: int, seed: int) -> Problem:
    """Units of sizes of their own; errors fall fourfold per bit, times a spread."""
    chance = np.random.default_rng(seed)
    choices = {}
    for unit in range(units):
        weights, scale = int(chance.integers(1000, 5_000_000)), math.exp(chance.normal(0, 1.5))
        choices[f"u{unit}"] = tuple(
            Choice(
                fmt,
                0.0 if fmt.bits == 32 else scale * 4.0**-fmt.bits * chance.uniform(0.5, 2),
                weights * fmt.bits // 8 + 2,
                0.0,
            )
            for fmt in FORMATS
        )
    size = sum(row[-1].weight_bytes for row in choices.values())
    return Problem(choices, original_bytes=size)


@pytest.mark.parametrize("compression", np.linspace(1.05, 15.5, 30))
def test_hundreds_of_units_as_highs(compression: float) -> None:
    problem = large(400, 0)
    limit = int(problem.original_bytes / compression)
    found = totals(problem, limit)
    assert found is not None
    assert found.weight_bytes <= limit
    # HiGHS' answer is proven to 1e-9; ours may only be below it.
    other = minimise(problem, "error", Limits(weight_bytes=limit)).totals.error
    assert found.error <= other
    assert found.error >= other * (1 - 1e-9)


def test_ends_of_the_range() -> None:
    problem = large(50, 1)
    low = problem.extreme("weight_bytes").weight_bytes
    smallest, largest = totals(problem, low), totals(problem, problem.original_bytes)
    assert smallest is not None
    assert smallest.weight_bytes == low
    assert largest is not None
    assert largest.error == 0
    assert Core.of(problem).solve(low - 1) is None


def test_a_plan_where_the_frontier_is_a_hull(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = large(60, 2)
    hull = build_frontier(problem, max_states=0)
    limits = Limits(weight_bytes=problem.original_bytes // 7)
    solution = solve(problem, limits, frontier=hull)
    solution.verify(problem, limits)
    assert solution.certificate.solver == "core"
    assert solution.certificate.gap == 0
    assert solution.totals.error == minimise(problem, "error", limits).totals.error
    with pytest.raises(InfeasibleError):
        solve(problem, Limits(weight_bytes=1), frontier=hull)
    # An error that the bytes do not allow, and sums beyond counting, are for HiGHS.
    both = Limits(weight_bytes=limits.weight_bytes, error=solution.totals.error)
    assert solve(problem, both, frontier=hull).totals == solution.totals
    monkeypatch.setattr(module, "MOST_STATES", 1)
    assert solve(problem, limits, frontier=hull).certificate.solver == "highs"
