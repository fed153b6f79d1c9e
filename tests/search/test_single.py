"""Single-format plans: one format for all, the nearest where a unit may not take it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixq.formats import Format
from mixq.search.choice import Choice
from mixq.search.limits import Limits
from mixq.search.problem import Problem
from mixq.search.single import CLOSE, MOST, best_singles, nearest, single_proposals

W32, W16, W8 = Format(32), Format(16), Format(8, 64)
W4, W4_FINE = Format(4, 64, "zero-point", "gptq"), Format(4, 32, "zero-point", "gptq")
W4_CLIP, W2 = Format(4, 64, "zero-point", "clip"), Format(2, 64)
ALL = (W32, W16, W8, W4, W4_FINE, W4_CLIP, W2)
LAWS = settings(derandomize=True, deadline=None, max_examples=100)


def problem(*rows: tuple[Format, ...], errors: dict[Format, float] | None = None) -> Problem:
    known = errors or {}
    return Problem(
        {
            f"u{index}": tuple(
                Choice(
                    fmt, known.get(fmt, 1 / fmt.bits), fmt.bits * 8 + (fmt.group_size or 0), 1.0
                )
                for fmt in row
            )
            for index, row in enumerate(rows)
        },
        original_bytes=10_000,
    )


NEAREST: dict[str, tuple[tuple[Format, ...], Format, Format]] = {
    "itself": ((W32, W4, W4_FINE), W4_FINE, W4_FINE),
    "same-width-other-group": ((W32, W4, W4_CLIP), W4_FINE, W4),
    "same-width-other-method": ((W32, W4_CLIP, W4_FINE), W4, W4_CLIP),
    "next-wider": ((W32, W8, W2), W4, W8),
    "pinned-narrower": ((W2,), W4, W2),
    "pinned-wider": ((W32,), W4, W32),
    "widest-of-narrower": ((W4, W2), W8, W4),
}


@pytest.mark.parametrize(("formats", "asked", "given"), NEAREST.values(), ids=NEAREST)
def test_nearest(formats: tuple[Format, ...], asked: Format, given: Format) -> None:
    assert nearest(formats, asked) == given


def test_one_plan_for_each_format_that_is_rounded_in_the_order_of_the_units() -> None:
    plans = single_proposals(problem((W32, W16, W8), (W32, W4, W2)))
    assert [plan.name for plan in plans] == [f"{fmt.name} everywhere" for fmt in (W16, W8, W4, W2)]
    assert {plan.kind for plan in plans} == {"single"}
    assert plans[2].assignment == {"u0": W8, "u1": W4}


def test_plans_that_are_the_same_come_once() -> None:
    # u1 is pinned and u0 has one format of 4 bits, whatever the group.
    plans = single_proposals(problem((W8, W4), (W4_FINE,)))
    assert [plan.name for plan in plans] == ["w8g64 everywhere", f"{W4.name} everywhere"]


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    rows = draw(
        st.lists(st.lists(st.sampled_from(ALL), min_size=1, unique=True), min_size=1, max_size=5)
    )
    made = problem(*(tuple(sorted(row, key=ALL.index)) for row in rows))
    if len(rows) > 1 and set(rows[0]) & set(rows[1]) and draw(st.booleans()):
        made = made.tied([("u0", "u1")])
    return made


@LAWS
@given(case=problems(), room=st.integers(0, 3000))
def test_laws(case: Problem, room: int) -> None:
    everything = single_proposals(case)
    for plan in everything:
        case.evaluate(plan.assignment)  # refuses what a unit may not take, and untied ties
        fmt = Format.parse(plan.name.removesuffix(" everywhere"))
        for item in case.items:
            taken = {plan.assignment[unit] for unit in item.units}
            assert taken == {nearest(item.formats, fmt)}
    limits = Limits(weight_bytes=room)
    best = best_singles(case, limits)
    fitting = [case.evaluate(p.assignment) for p in everything]
    fitting = [totals for totals in fitting if totals.weight_bytes <= room]
    assert bool(best) == bool(fitting)
    assert len(best) <= MOST
    errors = [case.evaluate(p.assignment).error for p in best]
    assert errors == sorted(errors)
    for error in errors:
        assert error <= CLOSE * min(totals.error for totals in fitting)
    if best:
        assert case.evaluate(best[0].assignment).weight_bytes <= room
        assert errors[0] == min(totals.error for totals in fitting)


def test_close_ones_are_measured_too_and_uniform_ones_not_again() -> None:
    errors = {W32: 0.0, W8: 0.1, W4: 1.0, W4_FINE: 1.2, W4_CLIP: 1.3, W2: 9.0}
    case = problem((W32, W8, W4, W4_FINE, W4_CLIP, W2), errors=errors)
    small = Limits(weight_bytes=4 * 8 + 64)
    names = [plan.assignment["u0"] for plan in best_singles(case, small)]
    assert names == [W4, W4_FINE]  # and not the one that errs 1.3 times as much
    names = [plan.assignment["u0"] for plan in best_singles(case, small, [{"u0": W4}])]
    assert names == [W4_FINE]
    assert best_singles(case, Limits(weight_bytes=1)) == []
