"""Refinement: moves to plans that err less where errors interact, and to no others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import mixq
from mixq.search.choice import Choice
from mixq.search.limits import Limits
from mixq.search.palette import Palette
from mixq.search.problem import Problem
from mixq.search.refine import refine as refine_module
from mixq.search.refine.effects import Effects
from mixq.search.refine.neighbours import neighbours
from mixq.search.refine.refine import ADDITIVE, Refined, Refinement, adds_up, believed
from mixq.search.solve import solve_once
from mixq.search.trials import Proposal, Trial
from mixq.sensitivity.around import Around, Change
from tests.search.refine.problems import W2, W4, W8, Assignment, limited

if TYPE_CHECKING:
    from mixq.search.session import Session

Error = Callable[[Assignment], float]


@dataclass
class FakeSession:
    """Measures whole plans by a formula, on two samples, and on held-out ones by another."""

    problem: Problem
    error: Error
    heldout: Error | None = None
    plans: list[Proposal] = field(default_factory=list)

    def run(self, proposals: Sequence[Proposal]) -> list[Trial]:
        self.plans += proposals
        return [self.trial(proposal) for proposal in proposals]

    def trial(self, proposal: Proposal) -> Trial:
        plan = proposal.assignment
        held = None if self.heldout is None else samples(self.heldout(plan))
        return Trial(proposal, self.problem.evaluate(plan), samples(self.error(plan)), held)


def samples(error: float) -> tuple[float, float]:
    return 0.9 * error, 1.1 * error


def by_formula(error: Error) -> Callable[[object, Trial, Sequence[Change]], Effects]:
    def measure(session: object, trial: Trial, changes: Sequence[Change]) -> Effects:
        plan = trial.proposal.assignment
        changed = {
            c: samples(error({**plan, **dict.fromkeys(c.units, c.format)})) for c in changes
        }
        return Effects(plan, trial.errors, changed)

    return measure


def refined(
    session: FakeSession, limits: Limits, *, rounds: int = 3, accept: bool = True
) -> tuple[Trial, Refined]:
    plan = solve_once(session.problem, limits).assignment
    start = session.trial(Proposal("optimum", "additive", plan))
    refinement = Refinement(rounds, by_formula(session.error))
    near = [session.trial(Proposal("near", "tilted", OTHER))] if limits is LIMITS else []
    found = refinement.of(cast("Session", session), start, near, limits, lambda trial: accept)
    return start, found


ALONE = {W8: 1.0, W4: 4.0, W2: 16.0}
ROW = tuple(Choice(fmt, error, fmt.bits, 0.0) for fmt, error in ALONE.items())
LIGHT = tuple(replace(choice, error=0.9 * choice.error) for choice in ROW)
TWINS = Problem({"a": ROW, "b": ROW, "c": LIGHT}, original_bytes=3 * 32)
LIMITS = Limits(weight_bytes=16)
"""Added errors are least with 8 bits for one of the twins a and b, and 4 for the others."""
OTHER = {"a": W4, "b": W4, "c": W8}


def cancelling(plan: Assignment) -> float:
    """What a and b err cancels where both have one format, whatever it is."""
    pair = 0.5 if plan["a"] == plan["b"] else ALONE[plan["a"]] + ALONE[plan["b"]]
    return pair + 0.9 * ALONE[plan["c"]]


def test_a_plan_is_moved_to_where_errors_cancel() -> None:
    session = FakeSession(TWINS, cancelling, cancelling)
    start, found = refined(session, LIMITS)
    plan = found.best.proposal.assignment
    assert found.best.measured.error < start.measured.error
    assert plan["a"] == plan["b"]
    assert plan["c"] == W8
    assert found.best.proposal.kind == "refined"
    assert LIMITS.allow(found.best.totals)


@pytest.mark.parametrize(
    ("session", "rounds", "accept"),
    [
        (FakeSession(TWINS, cancelling, lambda plan: 1 - cancelling(plan) / 99), 3, True),
        (FakeSession(TWINS, cancelling, cancelling), 0, True),
        (FakeSession(TWINS, cancelling, cancelling), 3, False),
    ],
    ids=["worse-on-held-out-data", "no-rounds", "breaks-another-demand"],
)
def test_the_plan_stays(session: FakeSession, rounds: int, accept: bool) -> None:
    start, found = refined(session, LIMITS, rounds=rounds, accept=accept)
    assert found.best is start


def test_held_out_data_alone_do_not_decide() -> None:
    """The two changes that promise most undo each other; held-out data happen to like that."""
    session = FakeSession(TWINS, cancelling)
    start, _ = refined(session, LIMITS, rounds=0)
    plan = start.proposal.assignment
    session.heldout = lambda other: 10.0 if other == plan else 1.0
    swapped = {**plan, "a": plan["b"], "b": plan["a"]}
    _, found = refined(session, LIMITS, rounds=1)
    assert swapped in [trial.proposal.assignment for trial in found.trials]
    assert found.best.proposal.assignment != swapped
    assert found.best.measured.error < start.measured.error


@pytest.mark.parametrize(("share", "moved"), [(0.98, True), (1.02, False)])
def test_held_out_errors_fall_by_more_than_their_noise(share: float, moved: bool) -> None:
    """Two held-out samples gain 1 + s and 1 - s: mean 1, standard error s."""
    session = FakeSession(TWINS, cancelling)
    start, found = refined(session, LIMITS)
    held = (10.0, 10.0)
    first = replace(start, heldout_errors=held)
    tried = replace(found.best, heldout_errors=(9.0 - share, 9.0 + share))
    better = refine_module._better(first, [tried], lambda trial: True)
    assert (better is tried) == moved


def test_the_next_round_looks_among_what_the_last_one_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Problem] = []

    def recorded(problem: Problem, *rest: object) -> list[Change]:
        seen.append(problem)
        return neighbours(problem, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(refine_module, "neighbours", recorded)
    _, found = refined(FakeSession(TWINS, cancelling, cancelling), LIMITS)
    assert len(found.effects) > 1
    assert seen[0] == TWINS
    assert seen[1] == believed(TWINS, found.effects[0]) != TWINS


def test_nothing_is_measured_where_errors_add_up() -> None:
    session = FakeSession(TWINS, lambda plan: TWINS.evaluate(plan).error)
    start, found = refined(session, LIMITS)
    assert found == Refined(start)
    assert session.plans == []


def test_errors_that_add_up_in_one_plan_may_not_in_others() -> None:
    session = FakeSession(TWINS, cancelling)
    start, found = refined(session, LIMITS)
    assert adds_up(start)
    assert found.effects


def test_what_counts_as_adding_up() -> None:
    plan = Proposal("p", "additive", {"a": W8, "b": W4, "c": W4})

    def trial(share: float) -> Trial:
        totals = TWINS.evaluate(plan.assignment)
        return Trial(plan, totals, samples((1 + share) * totals.error), None)

    assert adds_up(trial(0.0))
    assert adds_up(trial(0.99 * ADDITIVE))
    assert adds_up(trial(-0.99 * ADDITIVE))
    assert not adds_up(trial(1.01 * ADDITIVE))
    assert not adds_up(trial(-1.01 * ADDITIVE))


def test_it_ends_when_no_change_promises_more_than_its_noise() -> None:
    def luck(plan: Assignment) -> float:
        return 2 * TWINS.evaluate(plan).error

    session = FakeSession(TWINS, luck)
    plan = solve_once(TWINS, LIMITS).assignment
    start = session.trial(Proposal("optimum", "additive", plan))

    def noisy(session: object, trial: Trial, changes: Sequence[Change]) -> Effects:
        low, high = trial.errors
        return Effects(plan, trial.errors, dict.fromkeys(changes, (low - 1.0, high + 0.9)))

    found = Refinement(3, noisy).of(
        cast("Session", session), start, [], LIMITS, lambda trial: True
    )
    assert found.best is start
    assert session.plans == []
    assert len(found.effects) == 1


@given(limited(), st.integers(0, 99))
def test_refined_plans_keep_the_limits_and_err_less_on_both_parts_of_the_data(
    given_: tuple[Problem, Limits], seed: int
) -> None:
    problem, limits = given_

    def warped(salt: int) -> Error:
        def error(plan: Assignment) -> float:
            # Depends on whole plans, the same way in every process.
            mixed = sum((i + 1) * fmt.bits * (seed + salt) for i, fmt in enumerate(plan.values()))
            return (1.0 + math.sin(mixed)) * problem.evaluate(plan).error + 0.1

        return error

    session = FakeSession(problem, warped(1), warped(2))
    start, found = refined(session, limits)
    assert limits.allow(found.best.totals)
    assert all(limits.allow(trial.totals) for trial in found.trials)
    if found.best is not start:
        assert found.best.measured.error < start.measured.error
        assert found.best.judged_error < start.judged_error


class Opposites(nn.Module):
    """Two layers that undo each other's rounding, since rounding is odd, and one beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.plus = nn.Linear(64, 32, bias=False)
        self.minus = nn.Linear(64, 32, bias=False)
        self.other = nn.Linear(64, 32, bias=False)
        with torch.no_grad():
            self.minus.weight.copy_(-self.plus.weight)
            self.other.weight.mul_(1.1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.plus(x) + self.minus(x) + self.other(x)
        return result


def searched(rounds: int, folder: Path | None = None) -> mixq.Plan:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, data = Opposites().eval(), torch.randn(64, 64)
    palette = Palette((8, 4, 2), (32,), ("symmetric",), "rtn")
    return mixq.search(
        model, data, hardware="intel_cpu", max_size_mb=0.003, palette=palette, rounds=rounds,
        trials=8, sensitivity="measured", folder=folder,
    ).plan  # fmt: skip


def test_a_search_finds_that_two_layers_undo_each_other() -> None:
    plain, better = searched(0), searched(3)
    assert plain.layers["plus.weight"].bits != plain.layers["minus.weight"].bits
    assert better.layers["plus.weight"].bits == better.layers["minus.weight"].bits
    assert better.measured.heldout_error is not None
    assert plain.measured.heldout_error is not None
    assert better.measured.heldout_error < 0.5 * plain.measured.heldout_error
    assert better.predicted.weight_bytes <= 3_000
    # It is not the optimum of added errors, and says how far it is from that.
    assert better.certificate.gap > 0


def test_a_search_measures_each_change_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = searched(3, tmp_path)

    def again(self: Around, change: Change) -> list[float]:
        raise AssertionError(f"{change.name} was measured before")

    monkeypatch.setattr(Around, "errors", again)
    assert searched(3, tmp_path) == first
