"""bisect_size(): few plans, none twice, and the smallest good one where size and quality agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixq.formats import Format
from mixq.progress import silent
from mixq.search.bisection import LOOKS, STEPS, bisect_size
from mixq.search.choice import Choice
from mixq.search.frontier import build_frontier
from mixq.search.problem import Problem
from mixq.search.proposals import uniform_proposals
from mixq.search.trials import Proposal, Trial

if TYPE_CHECKING:
    from mixq.search.session import Session

WIDTHS = ((Format(32), 0.0), (Format(8, 64), 0.01), (Format(4, 64), 0.1), (Format(2, 64), 1.0))
LAWS = settings(derandomize=True, deadline=None, max_examples=100)


def problem(units: int = 8) -> Problem:
    return Problem(
        {
            f"u{i}": tuple(
                Choice(fmt, error / (i + 1), (100 + 37 * i) * fmt.bits, 1.0)
                for fmt, error in WIDTHS
            )
            for i in range(units)
        },
        original_bytes=10**6,
    )


PROBLEM = problem()
FRONTIER = build_frontier(PROBLEM)
SIZES = FRONTIER.weight_bytes.tolist()
SPAN = SIZES[-1] - SIZES[0]


@dataclass
class FakeSession:
    problem: Problem = PROBLEM
    sizes: list[int] = field(default_factory=list)
    progress: Callable[[str, int, int], None] = silent

    def run(self, proposals: Sequence[Proposal]) -> list[Trial]:
        totals = [self.problem.evaluate(p.assignment) for p in proposals]
        self.sizes += [t.weight_bytes for t in totals]
        return [
            Trial(p, t, (t.error, t.error), None) for p, t in zip(proposals, totals, strict=True)
        ]


def bisect(good: Callable[[int], bool], plain: Sequence[Trial] = ()) -> list[int]:
    """The sizes that are measured where plans of `good` sizes are accepted."""
    session = FakeSession()
    judged: list[int] = []

    def accept(trial: Trial) -> bool:
        judged.append(trial.totals.weight_bytes)
        return good(trial.totals.weight_bytes)

    trials = bisect_size(cast("Session", session), accept, FRONTIER, plain)
    assert [trial.totals.weight_bytes for trial in trials] == session.sizes
    assert len(set(session.sizes)) == len(session.sizes)  # none twice
    assert len(session.sizes) <= 1 + STEPS + len(LOOKS)
    assert set(session.sizes) <= set(SIZES)  # points of the frontier
    assert judged[0] == SIZES[-1]
    return session.sizes


@LAWS
@given(least=st.sampled_from(SIZES))
def test_the_smallest_good_plan_is_found_to_within_a_step(least: int) -> None:
    found = min(size for size in bisect(lambda size: size >= least) if size >= least)
    assert least <= found <= least + SPAN / 2**STEPS


def test_few_points_are_found_exactly() -> None:
    session = FakeSession(problem(2))
    frontier = build_frontier(session.problem)
    assert len(frontier) < 2**STEPS
    for least in frontier.weight_bytes.tolist():
        good: Callable[[Trial], bool] = lambda t, n=least: t.totals.weight_bytes >= n  # type: ignore[misc] # noqa: E731
        trials = bisect_size(cast("Session", session), good, frontier)
        assert min(t.totals.weight_bytes for t in trials if good(t)) == least


def test_what_not_even_the_largest_plan_keeps_costs_one_measurement() -> None:
    assert bisect(lambda size: False) == [SIZES[-1]]


@LAWS
@given(good=st.sets(st.sampled_from(SIZES)))
def test_whatever_is_accepted_the_best_is_no_larger_than_any_accepted_step(
    good: set[int],
) -> None:
    sizes = bisect(lambda size: size in good)
    if SIZES[-1] not in good:
        assert sizes == [SIZES[-1]]


def test_a_plain_plan_that_is_good_leaves_only_smaller_plans_to_look_at() -> None:
    session = FakeSession()
    plain = session.run(uniform_proposals(PROBLEM))
    four = next(t for t in plain if t.proposal.name == "uniform 4").totals.weight_bytes
    sizes = bisect(lambda size: size >= four, plain)
    assert all(size < four for size in sizes[1:])


@pytest.mark.parametrize("share", LOOKS, ids=lambda share: f"{share:.3g}-below")
def test_a_good_plan_below_a_failing_one_is_looked_for(share: float) -> None:
    """A metric of few samples fails one plan by chance and passes a smaller one."""
    least = SIZES[len(SIZES) // 2]
    lucky = max(size for size in SIZES if size <= least - share * SPAN)
    assert lucky in bisect(lambda size: size >= least or size == lucky)
