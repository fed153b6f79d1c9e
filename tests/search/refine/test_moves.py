"""Effects and moves: the optimum of measured effects, for several numbers of changes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixq.search.choice import Choice
from mixq.search.limits import Limits
from mixq.search.problem import Problem
from mixq.search.refine import moves as moves_module
from mixq.search.refine.effects import Effects
from mixq.search.refine.moves import distance, moves
from mixq.search.refine.refine import believed
from mixq.search.solve import solve_once
from mixq.sensitivity.around import Change
from tests.search.refine.problems import W4, W8, Assignment, effects_of, limited, plans


def jittered(seed: int) -> dict[tuple[str, int], tuple[float, float]]:
    return {
        (f"u{unit}", bits): ((seed * 7919 + unit * 31 + bits) % 97 / 10, (unit + bits) % 5 / 3)
        for unit in range(4)
        for bits in (32, 8, 4, 2)
    }


def additive(seed: int) -> Callable[[Assignment], tuple[float, ...]]:
    """Errors of two samples that add up over units, other ones than the problem's."""
    table = jittered(seed)

    def error(plan: Assignment) -> tuple[float, ...]:
        return tuple(
            math.fsum(table[unit, fmt.bits][sample] for unit, fmt in plan.items())
            for sample in (0, 1)
        )

    return error


@given(limited(), st.integers(0, 50))
def test_without_doubt_the_first_move_is_the_optimum_of_the_effects(
    given_: tuple[Problem, Limits], seed: int
) -> None:
    problem, limits = given_
    start = solve_once(problem, limits).assignment
    error = additive(seed)
    effects = effects_of(problem, start, error)

    def mean(plan: Assignment) -> float:
        return sum(error(plan)) / 2

    least = min(mean(plan) for plan in plans(problem) if limits.allow(problem.evaluate(plan)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moves_module, "DOUBT", 0.0)
        found = moves(effects, problem, limits, 99)
    best = mean(found[0]) if found else mean(start)
    assert best == pytest.approx(least, rel=1e-4, abs=1e-6)


@given(limited(), st.integers(0, 50))
def test_moves_keep_the_limits_and_change_ever_fewer_units(
    given_: tuple[Problem, Limits], seed: int
) -> None:
    problem, limits = given_
    start = solve_once(problem, limits).assignment
    effects = effects_of(problem, start, additive(seed))
    found = moves(effects, problem, limits, 99)
    assert all(limits.allow(problem.evaluate(plan)) for plan in found)
    counts = [distance(plan, start) for plan in found]
    assert counts == sorted(counts, reverse=True)
    assert all(count > 0 for count in counts)
    assert len({tuple(plan.values()) for plan in found}) == len(found)


@given(limited(), st.integers(0, 50))
def test_each_move_is_the_best_of_so_few_changes(
    given_: tuple[Problem, Limits], seed: int
) -> None:
    problem, limits = given_
    start = solve_once(problem, limits).assignment
    error = additive(seed)
    effects = effects_of(problem, start, error)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moves_module, "DOUBT", 0.0)
        found = moves(effects, problem, limits, 99)
    allowed = [plan for plan in plans(problem) if limits.allow(problem.evaluate(plan))]
    for move, most in zip(found[1:], found, strict=False):
        few = distance(most, start) // 2
        least = min(sum(error(plan)) for plan in allowed if distance(plan, start) <= few)
        assert sum(error(move)) == pytest.approx(least, rel=1e-4, abs=1e-6)


def test_no_more_moves_than_asked_for() -> None:
    row = (Choice(W8, 1.0, 8, 0.0), Choice(W4, 2.0, 4, 0.0))
    problem = Problem({f"u{index}": row for index in range(8)}, original_bytes=999)
    changes = {Change((unit,), W8): (-1.0, -1.0) for unit in problem.choices}
    effects = Effects(dict.fromkeys(problem.choices, W4), (0.0, 0.0), changes)
    found = moves(effects, problem, Limits(weight_bytes=99), 3)
    assert [distance(plan, effects.assignment) for plan in found] == [8, 4, 2]


def test_units_of_a_tie_move_together_and_count_once() -> None:
    row = (Choice(W8, 1.0, 8, 0.0), Choice(W4, 2.0, 4, 0.0))
    problem = Problem(dict.fromkeys("abc", row), original_bytes=99, ties=(("a", "b"),))
    changes = {Change(("a", "b"), W8): (-2.0, -2.0), Change(("c",), W8): (-1.0, -1.0)}
    effects = Effects(dict.fromkeys("abc", W4), (0.0, 0.0), changes)
    found = moves(effects, problem, Limits(weight_bytes=99), 9)
    assert found == [
        {"a": W8, "b": W8, "c": W8},
        {"a": W8, "b": W8, "c": W4},
    ]


@given(limited(), st.integers(0, 50))
def test_effects_that_add_up_are_believed_to_the_last_digit(
    given_: tuple[Problem, Limits], seed: int
) -> None:
    """Differences between plans in the believed problem are those of the effects."""
    problem, limits = given_
    start = solve_once(problem, limits).assignment
    effects = effects_of(problem, start, additive(seed))
    changed = believed(problem, effects)
    base = changed.evaluate(start).error
    for plan in plans(problem):
        promised = math.fsum(
            effects.of(change).error
            for change in effects.changed
            if plan[change.units[0]] == change.format
        )
        told = changed.evaluate(plan).error - base
        assert told == pytest.approx(promised, rel=1e-9, abs=1e-9)


def test_doubt_counts_against_changes_of_uncertain_effect() -> None:
    row = (Choice(W8, 1.0, 8, 0.0), Choice(W4, 2.0, 4, 0.0))
    problem = Problem({"a": row, "b": row}, original_bytes=64)
    # a gains .5 give or take 1.5, b 1.05 give or take .05
    changes = {Change(("a",), W4): (0.0, 3.0), Change(("b",), W4): (0.9, 1.0)}
    effects = Effects({"a": W8, "b": W8}, (2.0, 2.0), changes)
    assert effects.cautious(Change(("a",), W4), 1.0) == 1.0
    assert effects.cautious(Change(("b",), W4), 1.0) == pytest.approx(-1.0)
    assert moves(effects, problem, Limits(weight_bytes=16), 9) == [{"a": W8, "b": W4}]
