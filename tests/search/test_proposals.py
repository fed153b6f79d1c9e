"""Proposals: plans worth measuring keep the limits, the pins and the ties, in a fixed order."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixq.formats import Format
from mixq.search.choice import Choice
from mixq.search.exact.milp import minimise
from mixq.search.limits import Limits
from mixq.search.problem import Problem
from mixq.search.proposals import budget_proposals, uniform_proposals
from mixq.search.solve import solve
from mixq.search.trials import Proposal

W32, W16, W8, W4, W2 = Format(32), Format(16), Format(8, 64), Format(4, 64), Format(2, 64)
FORMATS = (W32, W8, W4, W2)
LAWS = settings(derandomize=True, deadline=None, max_examples=25)


def choice(fmt: Format, error: float, weights: int = 100) -> Choice:
    return Choice(fmt, error, weights * fmt.bits // 8, 1e-3)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    units = draw(st.integers(2, 6))
    rows: dict[str, tuple[Choice, ...]] = {}
    for index in range(units):
        formats = draw(st.sampled_from([FORMATS, FORMATS[1:], (W8, W4), (W4,), (W32,)]))
        harm = draw(st.floats(1e-6, 1.0))
        weights = draw(st.sampled_from([16, 64, 400]))
        rows[f"u{index}"] = tuple(
            choice(fmt, harm * 4.0 ** (8 - fmt.bits) if fmt.bits < 32 else 0.0, weights)
            for fmt in formats
        )
    return Problem(rows, original_bytes=10_000)


def highs(problem: Problem, limits: Limits) -> Mapping[str, Format]:
    return minimise(problem, limits.objective, limits).assignment


def proposed(problem: Problem, limits: Limits, trials: int, seed: int = 0) -> list[Proposal]:
    optimum = solve(problem, limits).assignment
    return budget_proposals(problem, limits, optimum, highs, trials=trials, seed=seed)


@LAWS
@given(problem=problems(), share=st.floats(0, 1), trials=st.integers(1, 6), seed=st.integers(0, 9))
def test_every_proposal_keeps_the_limits(
    problem: Problem, share: float, trials: int, seed: int
) -> None:
    low = problem.extreme("weight_bytes").weight_bytes
    high = problem.extreme("weight_bytes", largest=True).weight_bytes
    limits = Limits(weight_bytes=low + int(share * (high - low)))
    proposals = proposed(problem, limits, trials, seed)
    assert proposals == proposed(problem, limits, trials, seed)
    assert 1 <= len(proposals) <= trials
    assert proposals[0].kind == "additive"
    assert all(proposal.kind == "tilted" for proposal in proposals[1:])
    assert len({proposal.name for proposal in proposals}) == len(proposals)
    plans = [tuple(sorted((u, f.name) for u, f in p.assignment.items())) for p in proposals]
    assert len(set(plans)) == len(plans)
    for proposal in proposals:
        totals = problem.evaluate(proposal.assignment)
        assert limits.allow(totals)
        assert totals.error >= problem.evaluate(proposals[0].assignment).error


@LAWS
@given(problem=problems())
def test_uniform_proposals_take_the_width_or_the_next_wider(problem: Problem) -> None:
    for proposal in uniform_proposals(problem):
        width = int(proposal.name.removeprefix("uniform "))
        for unit, fmt in proposal.assignment.items():
            widths = [c.format.bits for c in problem.choices[unit]]
            wide = [bits for bits in widths if bits >= width]
            assert fmt.bits == (min(wide) if wide else max(widths))


def test_names_and_order_of_uniform_proposals() -> None:
    problem = Problem(
        {"a": tuple(choice(f, 0.0) for f in FORMATS), "b": (choice(W32, 0.0),)},
        original_bytes=800,
    )
    proposals = uniform_proposals(problem)
    assert [p.name for p in proposals] == ["uniform 8", "uniform 4", "uniform 2"]
    assert {p.kind for p in proposals} == {"uniform"}
    assert all(p.assignment["b"] == W32 for p in proposals)  # a pin holds here too


def test_floats_alone_have_no_uniform_proposal() -> None:
    problem = Problem({"a": (choice(W32, 0.0), choice(W16, 0.0))}, original_bytes=400)
    assert uniform_proposals(problem) == []


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (FORMATS, FORMATS, {8: W8, 4: W4, 2: W2}),
        (FORMATS, (W8, W4), {8: W8, 4: W4, 2: W4}),
        (FORMATS, (W32, W8), {8: W8, 4: W8, 2: W8}),
        ((W8, W4), (W4, W2), {8: W4, 4: W4, 2: W4}),
    ],
    ids=["alike", "no-2", "no-4", "one-in-common"],
)
def test_a_tie_takes_one_format_in_uniform_plans(
    first: tuple[Format, ...], second: tuple[Format, ...], expected: dict[int, Format]
) -> None:
    problem = Problem(
        {
            "a": tuple(choice(f, 0.0) for f in first),
            "b": tuple(choice(f, 0.0) for f in second),
            "free": tuple(choice(f, 0.0) for f in FORMATS),
        },
        original_bytes=1200,
    ).tied([("a", "b")])
    for proposal in uniform_proposals(problem):
        width = int(proposal.name.removeprefix("uniform "))
        assert proposal.assignment["a"] == proposal.assignment["b"] == expected[width]
        assert proposal.assignment["free"].bits == width


@pytest.mark.parametrize("limits", [Limits(weight_bytes=800), Limits(latency_s=5e-3)], ids=str)
def test_ties_hold_in_tilted_plans(limits: Limits) -> None:
    rows = {
        f"u{i}": tuple(choice(f, 4.0 ** (8 - f.bits) / (i + 1)) for f in FORMATS[1:])
        for i in range(5)
    }
    problem = Problem(rows, original_bytes=2000).tied([("u0", "u3"), ("u1", "u2")])
    for proposal in proposed(problem, limits, trials=6):
        assert proposal.assignment["u0"] == proposal.assignment["u3"]
        assert proposal.assignment["u1"] == proposal.assignment["u2"]


def test_the_order_of_units_does_not_change_the_plans() -> None:
    rows = {
        f"u{i}": tuple(choice(f, 4.0 ** (8 - f.bits) / (i + 1)) for f in FORMATS[1:])
        for i in range(5)
    }
    problem = Problem(rows, original_bytes=2000)
    turned = Problem(dict(reversed(rows.items())), original_bytes=2000)
    limits = Limits(weight_bytes=260)
    assert [p.assignment for p in proposed(problem, limits, 5)] == [
        p.assignment for p in proposed(turned, limits, 5)
    ]
