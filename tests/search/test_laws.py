"""Laws that hold for every way to solve: budgets, pins, names, and a certificate that is true."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixq.errors import InfeasibleError
from mixq.formats import Format
from mixq.search.certificate import Solution
from mixq.search.choice import Choice
from mixq.search.exact.milp import minimise
from mixq.search.frontier import build_frontier
from mixq.search.limits import Limits
from mixq.search.problem import Problem
from mixq.search.solve import solve, solve_once

FORMATS = (Format(2), Format(4), Format(8), Format(32))
LAWS = settings(derandomize=True, deadline=None, max_examples=60)
SIXTEENTHS = st.integers(0, 64).map(lambda n: n / 16)
"""Sums of these are exact in floating point."""

Way = Callable[[Problem, Limits], Solution]


def by_frontier(problem: Problem, limits: Limits) -> Solution:
    return solve(problem, limits, frontier=build_frontier(problem))


def by_curve(problem: Problem, limits: Limits) -> Solution:
    """The point of the curve, which need not be the optimum."""
    curve = build_frontier(problem, max_states=0)
    if limits.weight_bytes is not None:
        point = curve.best_under(limits.weight_bytes)
        bound = curve.lower_bound(limits.weight_bytes)
    else:
        point = curve.smallest_with(limits.error or 0.0)
        bound = 0.0
    assignment = curve.assignment(point.index)
    totals = problem.evaluate(assignment)
    exact = solve_once(problem, limits)
    value = getattr(totals, limits.objective)
    return Solution(
        assignment, totals, replace(exact.certificate, lower_bound=bound).reached(value)
    )


def by_highs(problem: Problem, limits: Limits) -> Solution:
    return minimise(problem, limits.objective, limits)


WAYS = pytest.mark.parametrize(
    "way",
    [solve_once, by_frontier, by_curve, by_highs],
    ids=["core", "frontier", "curve", "HiGHS"],
)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    choices = {
        f"u{unit}": tuple(
            Choice(fmt, draw(SIXTEENTHS), draw(st.integers(1, 40)), 0.0)
            for fmt in FORMATS[: draw(st.integers(1, 4))]
        )
        for unit in range(draw(st.integers(1, 5)))
    }
    problem = Problem(choices, original_bytes=1000, other_bytes=3)
    # Format(2) comes first everywhere, so every tie has a common format.
    return problem.tied([list(choices)[:2]]) if draw(st.booleans()) else problem


LIMITS = st.one_of(
    st.integers(0, 220).map(lambda size: Limits(weight_bytes=size)),
    SIXTEENTHS.map(lambda error: Limits(error=error)),
)


def every(problem: Problem) -> list[tuple[float, int]]:
    """(error, bytes) of all assignments that keep the ties."""
    totals = [
        problem.evaluate(problem.picked(picks))
        for picks in itertools.product(*(range(len(item.formats)) for item in problem.items))
    ]
    return [(t.error, t.weight_bytes) for t in totals]


def attempt(way: Way, problem: Problem, limits: Limits) -> Solution | None:
    try:
        return way(problem, limits)
    except InfeasibleError:
        return None


@WAYS
@LAWS
@given(problems(), LIMITS)
def test_a_limit_is_kept_and_the_bound_is_true(way: Way, problem: Problem, limits: Limits) -> None:
    found = attempt(way, problem, limits)
    allowed = [
        (error, size)
        for error, size in every(problem)
        if (limits.weight_bytes is None or size <= limits.weight_bytes)
        and (limits.error is None or error <= limits.error)
    ]
    assert (found is None) == (not allowed)
    if found is None:
        return
    found.verify(problem, limits)
    column = 0 if limits.objective == "error" else 1
    best = min(pair[column] for pair in allowed)
    # A line between two corners is rounded four times.
    rounding = 4 * 2.0**-52 * 5 * 4
    assert found.certificate.lower_bound <= best + rounding
    if way is not by_curve:
        assert getattr(found.totals, limits.objective) == best
        assert found.certificate.gap == 0


@WAYS
@LAWS
@given(problems(), LIMITS, st.data())
def test_a_pin_never_improves(
    way: Way, problem: Problem, limits: Limits, data: st.DataObject
) -> None:
    item = data.draw(st.sampled_from(problem.items))
    bits = data.draw(st.sampled_from(item.formats)).bits
    pinned = attempt(way, problem.pinned({item.units[0]: bits}), limits)
    free = attempt(solve_once if way is by_curve else way, problem, limits)
    if pinned is not None:
        assert free is not None
        assert getattr(free.totals, limits.objective) <= getattr(pinned.totals, limits.objective)
        assert pinned.assignment[item.units[0]].bits == bits


@WAYS
@LAWS
@given(problems(), LIMITS, st.randoms(use_true_random=False))
def test_other_names_in_another_order_change_nothing(
    way: Way, problem: Problem, limits: Limits, random: object
) -> None:
    units = list(problem.choices)
    random.shuffle(units)  # type: ignore[attr-defined]
    names = {unit: f"v{index}" for index, unit in enumerate(units)}
    renamed = replace(
        problem,
        choices={names[unit]: problem.choices[unit][::-1] for unit in units},
        ties=tuple(tuple(names[unit] for unit in reversed(tie)) for tie in problem.ties),
    )
    ours, theirs = attempt(way, problem, limits), attempt(way, renamed, limits)
    assert (ours is None) == (theirs is None)
    if ours is not None and theirs is not None:
        assert (ours.totals, ours.certificate) == (theirs.totals, theirs.certificate)
        # Only units that are alike in everything may change places.
        back = {unit: theirs.assignment[name] for unit, name in names.items()}
        assert formats(problem, ours.assignment) == formats(problem, back)


def formats(problem: Problem, assignment: dict[str, Format]) -> list[tuple[str, str]]:
    """What each item costs in all its formats, and the one that it has."""
    return sorted(
        (
            repr((item.formats, item.weight_bytes.tolist(), item.errors.tolist())),
            assignment[item.units[0]].name,
        )
        for item in problem.items
    )


@LAWS
@given(problems())
def test_the_frontier_is_monotone_and_holds_the_optimum_of_every_budget(problem: Problem) -> None:
    frontier = build_frontier(problem)
    pairs = list(zip(frontier.weight_bytes.tolist(), frontier.errors.tolist(), strict=True))
    assert all(a[0] < b[0] and a[1] > b[1] for a, b in itertools.pairwise(pairs))
    totals = every(problem)
    expected = set()
    for size in {size for _, size in totals}:
        error, smallest = min(pair for pair in totals if pair[1] <= size)
        expected.add((smallest, error))
    assert set(pairs) == expected
