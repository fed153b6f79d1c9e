"""Relaxation: a lower bound of exact solutions, and the convex hull of the frontier."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import milp

from mixq.formats import Format
from mixq.search.choice import Choice
from mixq.search.exact.hull import run_hull
from mixq.search.exact.milp import minimise
from mixq.search.exact.stage import Stage
from mixq.search.limits import Limits
from mixq.search.problem import Problem
from mixq.search.race import relaxation as relaxation_module
from mixq.search.race.relaxation import Relaxation

FORMATS = [Format(32), Format(8), Format(4), Format(2)]
sizes = st.integers(1, 400)
errors = st.floats(0.01, 100)


def _error(fmt: Format, scale: float) -> float:
    return 0.0 if fmt.bits == 32 else scale / 4**fmt.bits


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    rows = {}
    for unit in range(draw(st.integers(1, 6))):
        size, error = draw(sizes), draw(errors)
        rows[f"unit{unit}"] = tuple(
            Choice(f, _error(f, error * draw(st.floats(0.5, 2))), size * f.bits, size * 1e-6)
            for f in FORMATS
        )
    return Problem(rows, original_bytes=10_000, other_bytes=7, other_latency_s=1e-6)


def solved(problem: Problem, limits: Limits) -> tuple[float, np.ndarray]:
    relaxation = Relaxation(problem)
    known = {(u, c.format): c.error for u, row in problem.choices.items() for c in row}
    vector = relaxation.errors(known)
    shares = relaxation.solve(vector, limits)
    assert shares is not None
    return float(shares @ vector), shares


@pytest.fixture(autouse=True)
def divided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small problems are divided too, but where a test says otherwise."""
    monkeypatch.setattr(relaxation_module, "FEW_ITEMS", 0)


@given(problems())
def test_it_meets_the_frontier_in_the_corners_of_its_hull(problem: Problem) -> None:
    hull = run_hull(problem, [Stage.of(item) for item in problem.items])
    for size, corner in zip(hull.weight_bytes.tolist(), hull.errors.tolist(), strict=True):
        error, _ = solved(problem, Limits(weight_bytes=size + problem.other_bytes))
        # HiGHS lets rows be broken by 1e-6 and stops within 1e-7 of an objective scaled by 1e6.
        assert error == pytest.approx(corner, rel=1e-5, abs=1e-5 * hull.errors.max())


@given(problems(), st.floats(0, 1))
def test_it_is_a_lower_bound_within_the_limits(problem: Problem, where: float) -> None:
    low = problem.extreme("weight_bytes").weight_bytes
    high = problem.extreme("weight_bytes", largest=True).weight_bytes
    limits = Limits(weight_bytes=int(low + where * (high - low)))
    error, shares = solved(problem, limits)
    exact = problem.evaluate(minimise(problem, "error", limits).assignment)
    assert error <= exact.error * (1 + 1e-5)
    relaxation = Relaxation(problem)
    stored = problem.other_bytes
    totals: dict[str, float] = dict.fromkeys(problem.choices, 0.0)
    for (units, fmt), share in zip(relaxation.columns, shares, strict=True):
        for unit in units:
            totals[unit] += share
            stored += share * problem.choice(unit, fmt).weight_bytes
    assert list(totals.values()) == pytest.approx([1.0] * len(totals))
    assert stored <= (limits.weight_bytes or 0) * (1 + 1e-6)
    # A vertex of the polytope: one limit leaves at most one unit between two formats.
    assert sum(1e-6 < share < 1 - 1e-6 for share in shares) <= 2


def test_units_of_a_tie_share_a_column_and_add_their_errors() -> None:
    rows = {
        name: (Choice(Format(8), 1.0, 8, 0.0), Choice(Format(4), 2.0, 4, 0.0))
        for name in ("a", "b", "c")
    }
    relaxation = Relaxation(Problem(rows, original_bytes=100).tied([("a", "c")]))
    assert sorted(len(units) for units, _ in relaxation.columns) == [1, 1, 2, 2]
    vector = relaxation.errors({(u, c.format): c.error for u, row in rows.items() for c in row})
    assert sorted(vector.tolist()) == [1.0, 2.0, 2.0, 4.0]


def test_every_limit_counts() -> None:
    rows = {
        "a": (Choice(Format(8), 0.0, 8, 1.0), Choice(Format(4), 1.0, 4, 2.0)),
        "b": (Choice(Format(8), 0.0, 8, 2.0), Choice(Format(4), 1.0, 4, 1.0)),
    }
    problem = Problem(rows, original_bytes=100)
    assert solved(problem, Limits())[0] == pytest.approx(0.0)
    assert solved(problem, Limits(latency_s=2.0))[0] == pytest.approx(1.0)
    assert solved(problem, Limits(latency_s=2.5))[0] == pytest.approx(0.5)
    # 12 bytes allow one unit 4 bits, and time says which.
    assert solved(problem, Limits(weight_bytes=12, latency_s=2.0))[0] == pytest.approx(1.0)
    assert Relaxation(problem).solve(np.ones(4), Limits(latency_s=1.0)) is None


@given(problems(), st.floats(0, 1))
def test_few_items_are_solved_whole(problem: Problem, where: float) -> None:
    low = problem.extreme("weight_bytes").weight_bytes
    high = problem.extreme("weight_bytes", largest=True).weight_bytes
    limits = Limits(weight_bytes=int(low + where * (high - low)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relaxation_module, "FEW_ITEMS", 6)
        error, shares = solved(problem, limits)
    exact = problem.evaluate(minimise(problem, "error", limits).assignment)
    # HiGHS keeps integers and rows to 1e-6, and stops within 1e-4 of the objective.
    assert set(np.round(shares, 5)) <= {0.0, 1.0}
    assert error == pytest.approx(exact.error, rel=1e-3)


def test_what_highs_prints_is_kept_from_results(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def noisy(*arguments: Any, **named: Any) -> Any:
        os.write(1, b"HighsMipSolverData::transformNewIntegerFeasibleSolution")
        return milp(*arguments, **named)

    monkeypatch.setattr(relaxation_module, "milp", noisy)
    rows = {"a": (Choice(Format(8), 0.0, 8, 1.0), Choice(Format(4), 1.0, 4, 2.0))}
    assert solved(Problem(rows, original_bytes=100), Limits(weight_bytes=6))[0] == 0.5
    assert capfd.readouterr().out == ""
