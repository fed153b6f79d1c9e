"""Rounds are interleaved, bounded in time, and told to whoever watches."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from mixq.calibrate.case import Case, weights_load
from mixq.calibrate.timing import FEWEST_ROUNDS, MOST_CALLS, time_cases
from mixq.formats import Format
from mixq.graph.work import Work


@dataclass
class Clock:
    """Moves on when a case runs, and never by itself."""

    now_s: float = 0.0
    ran: list[str] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now_s

    def case(self, name: str, takes_s: float) -> Case:
        def run() -> None:
            self.now_s += takes_s
            self.ran.append(name)

        work = Work("elementwise")
        return Case(name, name, work, weights_load(work, Format(32), (0, 0)), run)


@pytest.mark.parametrize("takes_s", [1e-6, 3e-4, 0.01, 2.0])
def test_what_a_run_takes_is_found(takes_s: float) -> None:
    clock = Clock()
    (timed,) = time_cases(
        [clock.case("a", takes_s)], budget_s=1e9, rounds=7, clock=clock, wall=clock
    )
    assert timed.run_s == pytest.approx(takes_s)
    assert len(timed.rounds_s) == 7
    assert timed.noise == pytest.approx(0, abs=1e-6)


def test_every_round_runs_every_case() -> None:
    clock = Clock()
    cases = [clock.case(name, 0.01) for name in "abc"]
    time_cases(cases, budget_s=1e9, rounds=5, clock=clock, wall=clock)
    turns = clock.ran[6:]  # each case runs twice before it is timed
    rounds = [turns[start : start + 6] for start in range(0, len(turns), 6)]
    assert all(sorted(own) == list("aabbcc") for own in rounds)
    assert len({tuple(own) for own in rounds}) > 1


def test_short_runs_are_repeated_within_bounds() -> None:
    clock = Clock()
    time_cases([clock.case("a", 1e-7)], budget_s=1e9, rounds=5, clock=clock, wall=clock)
    assert len(clock.ran) == 2 + 5 * (1 + MOST_CALLS)


def test_the_budget_ends_it_after_the_fewest_rounds() -> None:
    clock = Clock()
    seen: list[tuple[int, int]] = []
    (timed,) = time_cases(
        [clock.case("a", 1.0)], budget_s=3.0, rounds=100, clock=clock, wall=clock,
        progress=lambda stage, done, total: seen.append((done, total)),
    )  # fmt: skip
    assert len(timed.rounds_s) == FEWEST_ROUNDS
    assert seen[0] == (0, 100)
    assert seen[-1] == (100, 100)
