"""Fill: a curve of optima whose gaps are small, and true."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixq.formats import Format
from mixq.search.choice import Choice
from mixq.search.exact import core, fill
from mixq.search.frontier import Frontier, build_frontier
from mixq.search.problem import Problem

FORMATS = (Format(2), Format(4), Format(8), Format(32))
LAWS = settings(derandomize=True, deadline=None, max_examples=150)
SIXTEENTHS = st.integers(0, 64).map(lambda n: n / 16)
"""Sums of these are exact in floating point."""


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    choices = {
        f"u{unit}": tuple(
            Choice(fmt, draw(SIXTEENTHS), draw(st.integers(1, 40)), 0.0)
            for fmt in FORMATS[: draw(st.integers(1, 4))]
        )
        for unit in range(draw(st.integers(1, 6)))
    }
    return Problem(choices, original_bytes=1000, other_bytes=draw(st.integers(0, 9)))


def large(units: int) -> Problem:
    """Every unit has a size of its own, errors fall fourfold per bit, and 32 bits have none."""
    chance = np.random.default_rng(0)
    choices = {}
    for unit in range(units):
        weights, scale = int(chance.integers(1_000, 5_000_000)), chance.lognormal(0, 1.5)
        errors = [float(scale * 4.0**-fmt.bits) for fmt in FORMATS[:-1]]
        choices[f"u{unit}"] = tuple(
            Choice(fmt, error, weights * fmt.bits // 8 + 2, 0.0)
            for fmt, error in zip(FORMATS, [*errors, 0.0], strict=True)
        )
    return Problem(choices, original_bytes=10**9, other_bytes=77)


def inner_gaps(curve: Frontier) -> list[float]:
    """At the largest budgets of each point, and at the ends of what is filled."""
    low, high = (int(curve.weight_bytes[end]) for end in (0, -1))
    margin = fill.EDGE * (high - low)
    ends = [int(low + margin) + 1, int(high - margin)]
    budgets = [*(curve.weight_bytes[1:] - 1).tolist(), *ends]
    return [curve.gap_under(b) for b in budgets if low + margin <= b <= high - margin]


@LAWS
@given(problems())
def test_every_point_and_every_bound_is_true(problem: Problem) -> None:
    curve, truth = build_frontier(problem, max_states=0), build_frontier(problem)
    assert not curve.exact
    assert (np.diff(curve.weight_bytes) > 0).all()
    assert (np.diff(curve.errors) < 0).all()
    for index in range(len(curve)):
        point = curve.point(index)
        best = truth.best_under(point.weight_bytes)
        assert (best.weight_bytes, best.error) == (point.weight_bytes, point.error)
        assert problem.evaluate(curve.assignment(index)).error == point.error
    low, high = (int(truth.weight_bytes[end]) for end in (0, -1))
    for budget in range(low, high + 2):
        # One rounding each of share, difference, product and sum.
        rounding = 4 * 2.0**-52 * float(truth.errors[0])
        assert curve.lower_bound(budget) <= truth.best_under(budget).error + rounding


@LAWS
@given(problems())
def test_gaps_are_small_inside(problem: Problem) -> None:
    curve = build_frontier(problem, max_states=0)
    assert max(inner_gaps(curve), default=0.0) <= fill.MOST_GAP


def test_a_hundred_units() -> None:
    problem = large(100)
    curve, truth = build_frontier(problem, max_states=0), build_frontier(problem)
    assert max(inner_gaps(curve)) <= fill.MOST_GAP
    assert 301 < len(curve) < len(truth) / 5
    assert curve.states > 0
    for index in range(0, len(curve), 7):
        point = curve.point(index)
        best = truth.best_under(point.weight_bytes)
        assert (best.weight_bytes, best.error) == (point.weight_bytes, point.error)
        totals = problem.evaluate(curve.assignment(index))
        assert (totals.weight_bytes, totals.error) == (point.weight_bytes, point.error)


def test_gaps_are_the_largest_up_to_the_next_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fill, "MOST_GAP", 0.3)
    curve = build_frontier(large(12), max_states=0)
    most = [*(curve.weight_bytes[1:] - 1).tolist(), int(curve.weight_bytes[-1])]
    assert curve.gaps.tolist() == [curve.gap_under(budget) for budget in most]
    assert build_frontier(large(12)).gaps.max() == 0


@pytest.mark.parametrize(
    ("room", "name", "value"),
    [(fill, "MOST_SOLVES", 5), (core, "MOST_STATES", 1)],
    ids=["solves", "sums"],
)
def test_limits_of_work_leave_honest_gaps(
    room: object, name: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, name, value)
    problem = large(60)
    curve, truth = build_frontier(problem, max_states=0), build_frontier(problem)
    assert max(inner_gaps(curve)) > fill.MOST_GAP
    for budget in np.linspace(truth.weight_bytes[0], truth.weight_bytes[-1], 50).astype(int):
        best = truth.best_under(budget).error
        assert curve.lower_bound(budget) <= best * (1 + 1e-12)
        assert best <= curve.best_under(budget).error


def test_the_work_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fill, "MOST_WORK", 20_000)
    curve = build_frontier(large(60), max_states=0)
    # The last optimum may take a fiftieth more.
    assert 0 < curve.states <= 20_400
    assert max(inner_gaps(curve)) > fill.MOST_GAP
