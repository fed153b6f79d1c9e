"""Contest: what is known well enough leaves no regret; what is not is named."""

from __future__ import annotations

import pytest

from mixq.formats import Format
from mixq.search.choice import Choice
from mixq.search.limits import Limits
from mixq.search.problem import Problem
from mixq.search.race.contest import Contest, contest
from mixq.search.race.evidence import Belief, Entry

WIDTHS = (32, 8, 4, 2)
SIZE = 1000


def made(errors: dict[Entry, Belief]) -> Problem:
    rows: dict[str, list[Choice]] = {}
    for (unit, fmt), belief in errors.items():
        rows.setdefault(unit, []).append(Choice(fmt, belief.error, SIZE * fmt.bits // 8, 0.0))
    choices = {unit: tuple(row) for unit, row in rows.items()}
    return Problem(choices, original_bytes=4 * SIZE * len(rows))


def beliefs(spread: float, units: int = 12) -> dict[Entry, Belief]:
    return {
        (f"unit{unit}", Format(bits)): Belief(
            (1 + 0.1 * unit) * 4.0**-bits if bits < 32 else 0.0, spread
        )
        for unit in range(units)
        for bits in WIDTHS
    }


def held(spread: float, compression: float = 10) -> Contest:
    known = beliefs(spread)
    problem = made(known)
    limit = int(problem.original_bytes / compression)
    return contest(problem, known, [Limits(weight_bytes=limit)])


def test_certainty_leaves_no_regret() -> None:
    found = held(0.0)
    assert found.regret == 0.0
    bits = {fmt.bits for _, fmt in found.taken}
    assert bits == {4, 2}  # what a plan of 10x takes here; the rest need not be known better


def test_regret_grows_with_what_is_not_known() -> None:
    little, much = held(0.1), held(1.0)
    assert 0 < little.regret < much.regret
    assert little.contested < much.contested
    assert much.contested <= much.taken


def test_it_is_the_same_every_time() -> None:
    assert held(0.7) == held(0.7)


def test_the_worst_decision_counts_and_impossible_ones_do_not() -> None:
    known = beliefs(0.5)
    problem = made(known)
    easy, hard = (Limits(weight_bytes=problem.original_bytes // c) for c in (4, 10))
    both = contest(problem, known, [easy, hard])
    apart = [contest(problem, known, [limits]) for limits in (easy, hard)]
    assert both.regret == max(one.regret for one in apart)
    assert both.taken == apart[0].taken | apart[1].taken
    nothing = contest(problem, known, [Limits(weight_bytes=1)])
    assert nothing == Contest(frozenset(), frozenset(), 0.0)


def test_errors_of_zero_leave_nothing_to_lose() -> None:
    known = {key: Belief(0.0, 0.3) for key in beliefs(0.0)}
    assert contest(made(known), known, [Limits(weight_bytes=6 * SIZE)]).regret == 0.0


@pytest.mark.parametrize("uncertain", [0, 11])
def test_only_what_is_uncertain_is_contested(uncertain: int) -> None:
    """One unit's 2 bits may cost next to nothing or a lot: its widths are open, and those of the
    units beside which it stands; the least and the most sensitive ones are not."""
    known = beliefs(0.0)
    name = f"unit{uncertain}"
    known[name, Format(2)] = Belief(known["unit5", Format(2)].error, 2.0)
    problem = made(known)
    found = contest(problem, known, [Limits(weight_bytes=problem.original_bytes // 10)])
    assert {fmt.bits for unit, fmt in found.contested if unit == name} == {4, 2}
    assert len({unit for unit, _ in found.contested}) < 6
