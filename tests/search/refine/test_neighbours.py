"""Neighbours: ranked by what they cost at the prices of the limits."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from mixq.formats import Format
from mixq.search.choice import Choice
from mixq.search.limits import Limits
from mixq.search.problem import Problem
from mixq.search.refine.neighbours import neighbours
from mixq.search.solve import solve_once
from mixq.sensitivity.around import Change
from tests.search.refine.problems import FORMATS, W2, W4, W8, W32, limited


def hand_made() -> Problem:
    """Errors 0, 1, 4, 16 and 0, 3, 12, 48 for 32, 8, 4, 2 bits of one weight each."""
    return Problem(
        {
            name: tuple(
                Choice(fmt, harm * error, fmt.bits, 1e-3 * fmt.bits)
                for fmt, error in zip(FORMATS, (0.0, 1.0, 4.0, 16.0), strict=True)
            )
            for name, harm in (("light", 1.0), ("heavy", 3.0))
        },
        original_bytes=64,
    )


def test_reduced_costs_by_hand() -> None:
    # In 12 bytes the relaxation's best is light at 4 and heavy at 8 bits; the next bytes go to
    # the step of light from 4 to 8, which saves 3 in 4 bytes: 0.75 a byte. At that price light
    # costs 24, 7, 7, 17.5 and heavy 24, 9, 15, 49.5.
    found = neighbours(hand_made(), {"light": W4, "heavy": W8}, Limits(weight_bytes=13), 9)
    assert found == [
        Change(("light",), W8),  # 0 above its best
        Change(("heavy",), W4),  # 6
        Change(("light",), W2),  # 10.5
        Change(("heavy",), W32),  # 15
        Change(("light",), W32),  # 17
        Change(("heavy",), W2),  # 40.5
    ]


@given(limited())
def test_nothing_is_lost_or_doubled(given_: tuple[Problem, Limits]) -> None:
    problem, limits = given_
    plan = solve_once(problem, limits).assignment
    found = neighbours(problem, plan, limits, 1_000)
    expected = {
        Change((unit,), choice.format)
        for unit, row in problem.choices.items()
        for choice in row
        if choice.format != plan[unit]
    }
    assert len(found) == len(expected)
    assert set(found) == expected


@given(limited())
def test_fewer_are_the_first_of_more(given_: tuple[Problem, Limits]) -> None:
    problem, limits = given_
    plan = solve_once(problem, limits).assignment
    assert neighbours(problem, plan, limits, 3) == neighbours(problem, plan, limits, 99)[:3]


def test_units_of_a_tie_are_one_change() -> None:
    problem = hand_made().tied([("light", "heavy")])
    found = neighbours(problem, {"light": W4, "heavy": W4}, Limits(weight_bytes=13), 9)
    assert {change.format for change in found} == {W32, W8, W2}
    assert all(sorted(change.units) == ["heavy", "light"] for change in found)


@pytest.mark.parametrize(
    "limits", [Limits(latency_s=13e-3), Limits(weight_bytes=13, latency_s=13e-3)], ids=str
)
def test_time_has_a_price_too(limits: Limits) -> None:
    found = neighbours(hand_made(), {"light": W4, "heavy": W8}, limits, 2)
    assert found == [Change(("light",), W8), Change(("heavy",), W4)]


def test_where_nothing_errs_every_change_is_as_good() -> None:
    choices = {
        unit: tuple(replace(choice, error=0.0) for choice in row)
        for unit, row in hand_made().choices.items()
    }
    problem = replace(hand_made(), choices=choices)
    plan: dict[str, Format] = {"light": W2, "heavy": W2}
    assert len(neighbours(problem, plan, Limits(weight_bytes=64), 9)) == 6
