"""Rules of other systems: each equals an example worked by hand, and keeps its budget."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixq.formats import Format
from mixq.search.choice import Choice
from mixq.search.limits import Limits
from mixq.search.problem import Problem
from mixq.search.solve import solve_once

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "rules.py"
SPEC = importlib.util.spec_from_file_location("rules", FILE)
assert SPEC is not None
assert SPEC.loader is not None
rules: Any = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(rules)

BITS = (8, 4, 2)


def problem(**rows: tuple[int, tuple[float, float, float]]) -> Problem:
    """Unit -> (weights, errors at 8, 4 and 2 bits); bytes are weights times bits."""
    choices = {
        unit: tuple(
            Choice(Format(bits), error, weights * bits, 0.0)
            for bits, error in zip(BITS, errors, strict=True)
        )
        for unit, (weights, errors) in rows.items()
    }
    return Problem(choices, original_bytes=10_000, other_bytes=5)


THREE = problem(
    small=(10, (0.0, 1.0, 8.0)), large=(100, (0.0, 2.0, 20.0)), medium=(30, (0.0, 3.0, 6.0))
)
"""Error per weight from 8 to 4 bits: 0.1, 0.02, 0.1; from 4 to 2: 0.7, 0.18, 0.1."""
NAMES = ("small", "large", "medium")


@pytest.mark.parametrize(
    ("rule", "budget", "expected"),
    [
        # 1,125 bytes at 8 bits; large at 4 saves 400, small 40, medium 120.
        ("score_order", 1_125, (8, 8, 8)),
        ("score_order", 725, (4, 4, 8)),
        ("density", 725, (8, 4, 8)),
        ("lagrangian", 725, (8, 4, 8)),
        ("sorted_prefix", 725, (4, 4, 8)),
        ("min_max", 725, (4, 4, 8)),
        # 565 bytes at 4 bits; 2 save 20 (small), 200 (large) and 60 (medium).
        ("score_order", 505, (4, 4, 2)),
        ("score_order", 490, (2, 4, 2)),
        ("density", 505, (4, 4, 2)),
        ("density", 490, (4, 2, 2)),
        # Both steps of medium lie on one edge of its hull. 505 bytes are full, 545 leave room for
        # small at 8 bits.
        ("lagrangian", 505, (4, 4, 2)),
        ("lagrangian", 545, (8, 4, 2)),
        # In order: small 4 (1), large 4 (2), medium 4 (3), medium 2 (6), small 2 (8), large 2.
        ("sorted_prefix", 505, (4, 4, 2)),
        ("sorted_prefix", 500, (2, 4, 2)),
        ("min_max", 500, (2, 4, 2)),
        ("min_max", 290, (2, 2, 2)),
    ],
)
def test_worked_by_hand(rule: str, budget: int, expected: tuple[int, ...]) -> None:
    plan = getattr(rules, rule)(THREE, budget)
    assert tuple(plan[name].bits for name in NAMES) == expected


def test_a_multiplier_is_followed_by_a_fill() -> None:
    # Rates from 2 to 4 bits: 4 (a) and 2 (b). With 15 bytes above the smallest plan a's step of
    # 20 does not fit, but b's of 10 does.
    two = problem(a=(10, (0.0, 1.0, 81.0)), b=(5, (0.0, 1.0, 21.0)))
    plan = rules.lagrangian(two, 5 + 20 + 10 + 15)
    assert (plan["a"].bits, plan["b"].bits) == (2, 4)


@pytest.mark.parametrize("name", list(rules.RULES))
def test_units_without_a_width_take_the_next_wider(name: str) -> None:
    choices = dict(THREE.choices)
    choices["small"] = choices["small"][:1]
    partial = Problem(choices, original_bytes=10_000, other_bytes=5)
    smallest = partial.extreme("weight_bytes").weight_bytes
    plan = rules.RULES[name](partial, smallest)
    assert tuple(plan[unit].bits for unit in NAMES) == (8, 2, 2)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    amounts = st.floats(1e-6, 10)
    return problem(
        **{
            f"u{unit}": (
                draw(st.integers(1, 50)),
                (draw(amounts) / 100, draw(amounts) / 10, draw(amounts)),
            )
            for unit in range(draw(st.integers(1, 6)))
        }
    )


@pytest.mark.parametrize("name", list(rules.RULES))
@settings(derandomize=True, deadline=None, max_examples=60)
@given(problems(), st.floats(0, 1))
def test_each_keeps_its_budget_and_is_never_better_than_the_optimum(
    name: str, problem: Problem, share: float
) -> None:
    low = problem.extreme("weight_bytes").weight_bytes
    high = problem.extreme("weight_bytes", largest=True).weight_bytes
    budget = int(low + share * (high - low))
    totals = problem.evaluate(rules.RULES[name](problem, budget))
    assert totals.weight_bytes <= budget
    # Sums of six that are rounded in another order.
    optimum = solve_once(problem, Limits(weight_bytes=budget)).totals.error
    assert totals.error >= optimum * (1 - 1e-15)
