from __future__ import annotations

import itertools
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixq.errors import InfeasibleError, UsageError
from mixq.formats import Format
from mixq.search.choice import Choice
from mixq.search.exact import milp
from mixq.search.exact.milp import minimise
from mixq.search.frontier import build_frontier
from mixq.search.limits import Limits, Quantity, Totals
from mixq.search.problem import Problem
from mixq.search.solve import solve

FORMATS = (Format(2), Format(4), Format(8), Format(32))
LAWS = settings(derandomize=True, deadline=None, max_examples=60)
SIXTEENTHS = st.integers(0, 64).map(lambda n: n / 16)
"""Sums of these are exact in floating point."""
ANY_SIZE = st.floats(-12, 12).map(lambda exponent: 10.0**exponent)
QUANTITIES: tuple[Quantity, ...] = ("weight_bytes", "latency_s", "error")


@st.composite
def problems(draw: st.DrawFn, numbers: st.SearchStrategy[float]) -> Problem:
    choices = {
        f"u{unit}": tuple(
            Choice(fmt, draw(numbers), draw(st.integers(1, 40)), draw(numbers))
            for fmt in FORMATS[: draw(st.integers(1, 4))]
        )
        for unit in range(draw(st.integers(1, 5)))
    }
    return Problem(choices, original_bytes=1000, other_bytes=3, other_latency_s=0.5)


def every_total(problem: Problem) -> list[Totals]:
    return [
        problem.evaluate({u: c.format for u, c in zip(problem.choices, chosen, strict=True)})
        for chosen in itertools.product(*problem.choices.values())
    ]


@st.composite
def problems_and_limits(
    draw: st.DrawFn, numbers: st.SearchStrategy[float]
) -> tuple[Problem, Limits]:
    """Each limit, where there is one, is met exactly by some assignment."""
    problem = draw(problems(numbers))
    totals = every_total(problem)
    values = {
        name: draw(st.none() | st.sampled_from([getattr(t, name) for t in totals]))
        for name in QUANTITIES
    }
    return problem, Limits(**values)


def large(units: int, sizes: list[int], seed: int) -> Problem:
    """Units of the given weight counts in turn; errors fall fourfold per bit, times a spread."""
    rng = np.random.default_rng(seed)
    choices = {}
    for unit in range(units):
        weights, scale = sizes[unit % len(sizes)], math.exp(rng.normal(0, 1.5))
        choices[f"u{unit}"] = tuple(
            Choice(
                fmt,
                0.0 if fmt.bits == 32 else scale * 4.0**-fmt.bits * math.exp(rng.normal(0, 0.5)),
                weights * fmt.bits // 8 + (0 if fmt.bits == 32 else weights // 32),
                weights * 1e-10 * math.exp(rng.normal(0, 0.3)),
            )
            for fmt in FORMATS
        )
    original = sum(c[-1].weight_bytes for c in choices.values())
    return Problem(choices, original_bytes=original + 9, other_bytes=9)


DISTINCT = large(60, np.random.default_rng(3).integers(2_000, 2_000_000, 60).tolist(), seed=3)
TRANSFORMER = large(200, [147_456] * 4 + [589_824] * 2, seed=4)


@pytest.mark.parametrize("problem", [DISTINCT, TRANSFORMER], ids=["distinct", "transformer"])
@pytest.mark.parametrize("compression", [1.01, 2, 4, 4.5, 5, 6, 8, 10, 12, 14])
def test_highs_equals_dynamic_programming(problem: Problem, compression: float) -> None:
    limits = Limits(weight_bytes=int(problem.original_bytes / compression))
    proven = solve(problem, limits)
    assert proven.certificate.solver == "dynamic-programming"
    for objective, given_limits in (
        ("error", limits),
        ("weight_bytes", Limits(error=proven.totals.error)),
    ):
        found = minimise(problem, objective, given_limits)  # type: ignore[arg-type]
        assert found.totals.weight_bytes == proven.totals.weight_bytes
        assert found.totals.error == proven.totals.error
        assert found.certificate.gap == 0


@LAWS
@given(problems_and_limits(SIXTEENTHS), st.sampled_from(QUANTITIES))
def test_any_limits_equal_brute_force(case: tuple[Problem, Limits], objective: Quantity) -> None:
    problem, limits = case
    allowed = [totals for totals in every_total(problem) if limits.allow(totals)]
    if not allowed:
        with pytest.raises(InfeasibleError):
            minimise(problem, objective, limits)
        return
    solution = minimise(problem, objective, limits)
    solution.verify(problem, limits, objective)
    best = min(getattr(totals, objective) for totals in allowed)
    assert getattr(solution.totals, objective) == best
    assert solution.certificate.lower_bound == best
    if objective == "weight_bytes":
        assert solution.totals.error == min(t.error for t in allowed if t.weight_bytes == best)


@LAWS
@given(problems_and_limits(SIXTEENTHS))
def test_solve_follows_its_rule(case: tuple[Problem, Limits]) -> None:
    problem, limits = case
    allowed = [totals for totals in every_total(problem) if limits.allow(totals)]
    if not allowed:
        with pytest.raises(InfeasibleError) as refusal:
            solve(problem, limits)
        assert refusal.value.ranges
        return
    solution = solve(problem, limits)
    solution.verify(problem, limits)
    if limits.objective == "error":
        assert solution.totals.error == min(t.error for t in allowed)
    else:
        best = min((t.weight_bytes, t.error) for t in allowed)
        assert (solution.totals.weight_bytes, solution.totals.error) == best


@LAWS
@given(problems_and_limits(ANY_SIZE))
def test_errors_of_any_magnitude(case: tuple[Problem, Limits]) -> None:
    problem, limits = case
    allowed = [totals for totals in every_total(problem) if limits.allow(totals)]
    if allowed:
        solution = minimise(problem, "error", limits)
        best = min(totals.error for totals in allowed)
        # The last solve sees the error at no less than a tenth of 10^6 and stops within 10^-6.
        assert best <= solution.totals.error <= best * (1 + 1e-11)
        assert solution.certificate.lower_bound <= solution.totals.error


@LAWS
@given(problems_and_limits(ANY_SIZE))
def test_names_change_nothing(case: tuple[Problem, Limits]) -> None:
    problem, limits = case
    renamed = replace(
        problem, choices={f"v{u}": problem.choices[u][::-1] for u in [*problem.choices][::-1]}
    )
    try:
        ours = minimise(problem, "error", limits)
    except InfeasibleError:
        with pytest.raises(InfeasibleError):
            minimise(renamed, "error", limits)
        return
    theirs = minimise(renamed, "error", limits)
    assert (ours.totals, ours.certificate) == (theirs.totals, theirs.certificate)


def test_of_equal_errors_the_fewest_bytes_under_a_latency_limit() -> None:
    choices = (Choice(Format(32), 0.0, 40, 1.0), Choice(Format(16), 0.0, 20, 2.0))
    problem = Problem({"a": choices, "b": choices}, original_bytes=80)
    for latency_s, size in ((4.0, 40), (3.0, 60), (2.0, 80)):
        assert solve(problem, Limits(latency_s=latency_s)).totals.weight_bytes == size


def test_ties_are_kept_under_a_latency_limit() -> None:
    tie = ["u0", "u1", "u2"]
    problem = DISTINCT.tied([tie])
    latency_s = 0.9 * solve(problem, Limits(weight_bytes=10**9)).totals.latency_s
    limits = Limits(weight_bytes=DISTINCT.original_bytes // 8, latency_s=latency_s)
    tied, free = solve(problem, limits), solve(DISTINCT, limits)
    assert len({tied.assignment[unit] for unit in tie}) == 1
    assert tied.totals.error >= free.totals.error


def test_where_the_frontier_is_a_hull_the_core_answers() -> None:
    limits = Limits(weight_bytes=DISTINCT.original_bytes // 7)
    hull = build_frontier(DISTINCT, max_states=100)
    assert not hull.exact
    solution = solve(DISTINCT, limits, frontier=hull)
    assert solution.certificate.solver == "core"
    assert solution.totals.error == solve(DISTINCT, limits).totals.error
    assert solution.totals.error <= hull.best_under(DISTINCT.original_bytes // 7).error


def test_refuses_the_frontier_of_another_problem() -> None:
    with pytest.raises(UsageError, match="another problem"):
        solve(DISTINCT, Limits(error=1.0), frontier=build_frontier(TRANSFORMER))


def test_an_answer_that_breaks_a_limit_by_a_hair_is_solved_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # HiGHS lets a limit scaled to 1 be broken by 1e-6, here a thousand bytes of 10^9.
    monkeypatch.setattr(milp, "_SCALE", 1.0)
    choices = {
        unit: (Choice(Format(2), error, 1, 0.0), Choice(Format(4), 0.0, 5 * 10**8 + 200, 0.0))
        for unit, error in (("a", 2.0), ("b", 1.0))
    }
    problem = Problem(choices, original_bytes=10**10)
    both = problem.extreme("error")
    solution = minimise(problem, "error", Limits(weight_bytes=both.weight_bytes - 1))
    assert solution.totals.error == 1.0
    assert minimise(problem, "error", Limits(weight_bytes=both.weight_bytes)).totals == both


def test_a_limit_met_after_rounding_is_met() -> None:
    # 10^6 + (0.1 + 0.2 + 0.3) rounds down, so the room above 10^6 is less than 0.6.
    choices = {
        f"u{latency_s}": (Choice(Format(2), 1.0, 1, 0.0), Choice(Format(4), 0.0, 2, latency_s))
        for latency_s in (0.1, 0.2, 0.3)
    }
    problem = Problem(choices, original_bytes=10, other_latency_s=1e6)
    best = problem.extreme("error")
    assert best.latency_s - 1e6 < 0.6 - 1e-11
    assert minimise(problem, "error", Limits(latency_s=best.latency_s)).totals == best


def test_giving_up_on_a_proof_is_said_in_the_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    # Error and bytes sum to a constant: a subset-sum problem, hard for branch and bound.
    rng = np.random.default_rng(0)
    sizes = rng.integers(10**5, 10**7, (60, 4)).tolist()
    choices = {
        f"u{unit}": tuple(
            Choice(fmt, float(10**7 - size), size, 0.0)
            for fmt, size in zip(FORMATS, row, strict=True)
        )
        for unit, row in enumerate(sizes)
    }
    problem = Problem(choices, original_bytes=10**9)
    monkeypatch.setattr(milp, "_MAX_NODES", 1)
    certificate = minimise(problem, "error", Limits(weight_bytes=2 * 10**8)).certificate
    assert 0 < certificate.gap < 1e-2
    assert certificate.lower_bound < certificate.objective


@pytest.mark.parametrize(
    ("limits", "named"),
    [
        (Limits(weight_bytes=10), "weight_bytes"),
        (Limits(latency_s=1e-9), "latency_s"),
        (Limits(error=1e-4, weight_bytes=300_000), "error"),
    ],
    ids=["bytes", "latency", "together"],
)
def test_infeasible_limits_name_the_ranges(limits: Limits, named: str) -> None:
    problem = large(10, [100_000], seed=0)
    with pytest.raises(InfeasibleError):
        minimise(problem, limits.objective, limits)
    with pytest.raises(InfeasibleError) as refusal:
        solve(problem, limits)
    assert named in refusal.value.ranges
    assert " to " in refusal.value.ranges[named]
    assert "\n" not in str(refusal.value)


PRINTING = """
import sys
sys.path.insert(0, {folder!r})
import test_milp as tests
from mixq.search.exact.milp import minimise
from mixq.search.limits import Limits
for compression in (4, 6, 8, 10, 12):
    for problem in (tests.DISTINCT, tests.TRANSFORMER):
        minimise(problem, "error", Limits(weight_bytes=int(problem.original_bytes / compression)))
print("done")
"""


def test_stdout_stays_clean() -> None:
    script = PRINTING.format(folder=__file__.rpartition("/")[0])
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert run.stdout == "done\n"
