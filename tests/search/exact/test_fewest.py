"""Fewest: the smallest plan within an error, as brute force and HiGHS find it."""

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
from mixq.search.exact import core
from mixq.search.exact.fewest import solve_fewest
from mixq.search.exact.milp import minimise
from mixq.search.frontier import build_frontier
from mixq.search.limits import Limits
from mixq.search.problem import Problem
from mixq.search.solve import solve, solve_once

FORMATS = (Format(2), Format(4), Format(8), Format(32))
LAWS = settings(derandomize=True, deadline=None, max_examples=150)
SIXTEENTHS = st.integers(0, 64).map(lambda n: n / 16)
"""Sums of these are exact in floating point."""


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    step = draw(st.sampled_from([1, 6]))
    choices = {
        f"u{unit}": tuple(
            Choice(fmt, draw(SIXTEENTHS), step * draw(st.integers(1, 40)), 0.0)
            for fmt in FORMATS[: draw(st.integers(1, 4))]
        )
        for unit in range(draw(st.integers(1, 5)))
    }
    problem = Problem(choices, original_bytes=1000, other_bytes=5)
    return problem.tied([list(choices)[:2]]) if draw(st.booleans()) else problem


@LAWS
@given(problems(), st.data())
def test_it_equals_brute_force(problem: Problem, data: st.DataObject) -> None:
    every = [
        problem.evaluate(problem.picked(picks))
        for picks in itertools.product(*(range(len(item.formats)) for item in problem.items))
    ]
    limit = data.draw(SIXTEENTHS | st.sampled_from(sorted({t.error for t in every})))
    fitting = [(t.weight_bytes, t.error) for t in every if t.error <= limit]
    found = solve_fewest(problem, limit)
    if not fitting:
        assert found is None
        with pytest.raises(InfeasibleError):
            solve_once(problem, Limits(error=limit))
        return
    assert found is not None
    totals = problem.evaluate(problem.picked(found.picks))
    assert (totals.weight_bytes, totals.error) == min(fitting)
    solution = solve_once(problem, Limits(error=limit))
    solution.verify(problem, Limits(error=limit))
    assert solution.certificate.solver == "core"


def large(units: int, step: int) -> Problem:
    chance = np.random.default_rng(units)
    choices = {}
    for unit in range(units):
        weights, scale = step * int(chance.integers(1_000, 50_000)), chance.lognormal(0, 1.5)
        choices[f"u{unit}"] = tuple(
            Choice(
                fmt,
                0.0 if fmt.bits == 32 else scale * 4.0**-fmt.bits * chance.uniform(0.5, 2),
                weights * fmt.bits // 8,
                0.0,
            )
            for fmt in FORMATS
        )
    return Problem(choices, original_bytes=10**10, other_bytes=3)


@pytest.mark.parametrize("step", [1, 1_152], ids=["odd-sizes", "multiples"])
@pytest.mark.parametrize("share", [0.9, 0.3, 0.01, 1e-4, 0.0])
def test_hundreds_of_units(share: float, step: int) -> None:
    problem = large(150, step)
    limits = Limits(error=share * problem.extreme("error", largest=True).error)
    found = solve_once(problem, limits)
    assert found.certificate.solver == "core"
    assert found.certificate.gap == 0
    frontier = build_frontier(problem)
    assert frontier.exact
    assert found.totals == solve(problem, limits, frontier=frontier).totals
    if share in (0.3, 0.01):
        other = minimise(problem, "weight_bytes", limits)
        assert other.totals.weight_bytes == found.totals.weight_bytes


def test_highs_where_there_are_too_many_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = large(40, 1)
    limits = Limits(error=0.1 * problem.extreme("error", largest=True).error)
    ours = solve_once(problem, limits)
    monkeypatch.setattr(core, "MOST_STATES", 1)
    theirs = solve_once(problem, limits)
    assert (ours.certificate.solver, theirs.certificate.solver) == ("core", "highs")
    assert theirs.totals.weight_bytes == ours.totals.weight_bytes


def test_an_error_just_out_of_reach() -> None:
    problem = large(20, 1).pinned({"u0": 4})
    least = problem.extreme("error").error
    assert solve_once(problem, Limits(error=least)).totals.error == least
    with pytest.raises(InfeasibleError, match="error"):
        solve_once(problem, Limits(error=math.nextafter(least, 0.0)))
