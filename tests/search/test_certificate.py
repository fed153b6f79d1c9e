from __future__ import annotations

import math
from dataclasses import replace

import pytest

from mixq.errors import PlanError
from mixq.formats import Format
from mixq.search.certificate import Certificate, Solution, verify
from mixq.search.choice import Choice
from mixq.search.exact.milp import minimise
from mixq.search.limits import Limits
from mixq.search.problem import Problem
from mixq.search.solve import solve

W2, W4, W8 = Format(2), Format(4), Format(8)
LIMITS = Limits(weight_bytes=24, latency_s=3.0)


def problem() -> Problem:
    choices = (Choice(W2, 4.0, 2, 1.0), Choice(W4, 1.0, 4, 1.0), Choice(W8, 0.0, 8, 1.0))
    return Problem(dict.fromkeys("abc", choices), original_bytes=100, other_bytes=10)


def solution() -> Solution:
    return solve(problem(), LIMITS)


@pytest.mark.parametrize(
    ("objective", "bound", "expected"),
    [
        (2.0, 2.0, Certificate(2.0, 2.0, 0.0, "s")),
        (2.0, 1.5, Certificate(2.0, 1.5, 0.25, "s")),
        (2.0, 2.5, Certificate(2.0, 2.0, 0.0, "s")),
        (2.0, -1.0, Certificate(2.0, 0.0, 1.0, "s")),
        (0.0, 0.0, Certificate(0.0, 0.0, 0.0, "s")),
    ],
    ids=["proven", "a-gap", "bound-above", "bound-below-zero", "zero"],
)
def test_gap(objective: float, bound: float, expected: Certificate) -> None:
    assert Certificate.of(objective, bound, "s") == expected


def test_time_is_told_and_not_compared() -> None:
    first, second = solution().certificate, solution().certificate
    assert first == second
    assert first.solve_s > 0
    assert first == replace(first, solve_s=9.0)
    assert first != replace(first, states=first.states + 1)
    assert replace(first, solve_s=9.0).reached(first.objective).solve_s == 9.0


@pytest.mark.parametrize(
    ("limits", "solver", "most"),
    [
        (Limits(weight_bytes=24), "dynamic-programming", 3 + 3 * 3 + 5 * 3 + 1),
        (Limits(error=2.0), "dynamic-programming", 3 + 3 * 3 + 5 * 3 + 1),
        (LIMITS, "highs", 10),
    ],
    ids=["bytes", "error", "latency"],
)
def test_the_work_is_counted(limits: Limits, solver: str, most: int) -> None:
    certificate = solve(problem(), limits).certificate
    assert certificate.solver == solver
    assert 0 < certificate.states <= most


def test_true_solutions_verify() -> None:
    solution().verify(problem(), LIMITS)
    for limits in (Limits(), Limits(weight_bytes=24), Limits(error=2.0)):
        solve(problem(), limits).verify(problem(), limits)
    minimise(problem(), "latency_s", LIMITS).verify(problem(), LIMITS, "latency_s")


def test_verify_returns_the_totals() -> None:
    totals = verify(problem(), {"a": W2, "b": W4, "c": W8}, Limits())
    assert (totals.error, totals.weight_bytes, totals.latency_s) == (5.0, 24, 3.0)


@pytest.mark.parametrize(
    ("corrupt", "named"),
    [
        (lambda s: replace(s, assignment={**s.assignment, "a": W8, "b": W8}), "weight_bytes"),
        (lambda s: replace(s, assignment={**s.assignment, "a": W2}), "sum to"),
        (lambda s: replace(s, assignment={"a": W4, "b": W4}), "'c'"),
        (lambda s: replace(s, assignment={**s.assignment, "d": W4}), "'d'"),
        (lambda s: replace(s, assignment={**s.assignment, "a": Format(16)}), "w16"),
        (lambda s: replace(s, totals=replace(s.totals, weight_bytes=20)), "sum to"),
        (lambda s: replace(s, totals=replace(s.totals, error=0.0)), "sum to"),
        (
            lambda s: replace(s, certificate=replace(s.certificate, objective=1.0)),
            "certificate says error",
        ),
        (lambda s: replace(s, certificate=replace(s.certificate, lower_bound=9.0)), "contradicts"),
        (lambda s: replace(s, certificate=replace(s.certificate, lower_bound=0.5)), "contradicts"),
        (lambda s: replace(s, certificate=replace(s.certificate, gap=math.nan)), "contradicts"),
    ],
    ids=[
        "over-the-limit", "other-layers", "unit-missing", "unit-unknown", "format-unknown",
        "bytes-lie", "error-lies", "objective-lies", "bound-above", "bound-without-gap", "gap-nan",
    ],
)  # fmt: skip
def test_a_corrupted_solution_is_caught(corrupt: object, named: str) -> None:
    broken = corrupt(solution())  # type: ignore[operator]
    with pytest.raises(PlanError, match=named):
        broken.verify(problem(), LIMITS)


@pytest.mark.parametrize(
    "limits",
    [
        Limits(weight_bytes=23),
        Limits(latency_s=math.nextafter(3.0, 0.0)),
        Limits(error=math.nextafter(5.0, 0.0)),
    ],
    ids=["a-byte", "an-ulp-of-latency", "an-ulp-of-error"],
)
def test_the_smallest_excess_is_caught(limits: Limits) -> None:
    with pytest.raises(PlanError, match="above its limit"):
        verify(problem(), {"a": W2, "b": W4, "c": W8}, limits)


def test_a_broken_tie_is_caught() -> None:
    with pytest.raises(PlanError, match="a, b"):
        verify(problem().tied([["a", "b"]]), {"a": W2, "b": W4, "c": W8}, Limits())
