"""find(): what is measured and chosen, on made-up errors that add, or do not."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import mixq
from mixq.errors import InfeasibleError, NonFiniteError
from mixq.formats import Format
from mixq.progress import silent
from mixq.search.budget import Budget
from mixq.search.choice import Choice
from mixq.search.find import Found, find
from mixq.search.frontier import build_frontier
from mixq.search.metric import Judge
from mixq.search.problem import Problem
from mixq.search.refine.refine import Refined
from mixq.search.trials import Proposal, Trial

if TYPE_CHECKING:
    from mixq.search.refine.refine import Refinement
    from mixq.search.session import Session

W32, W8, W4, W2 = Format(32), Format(8, 64), Format(4, 64), Format(2, 64)
Assignment = Mapping[str, Format]
UNITS = 6


def problem() -> Problem:
    """Six units of growing size and falling sensitivity; 32 bits add no error."""
    choices = {}
    for index in range(UNITS):
        weights, harm = 100 * (index + 1), 1.0 / (index + 1)
        choices[f"u{index}"] = tuple(
            Choice(fmt, harm * error, weights * fmt.bits, 1e-3 * fmt.bits)
            for fmt, error in ((W32, 0.0), (W8, 0.01), (W4, 0.1), (W2, 1.0))
        )
    return Problem(choices, original_bytes=100 * 21 * 32)


def added(assignment: Assignment) -> float:
    return problem().evaluate(assignment).error


@dataclass
class FakeSession:
    """Measures by a formula, and remembers the names of what it measured."""

    problem: Problem
    measure: Callable[[Assignment], float] = added
    heldout: Callable[[Assignment], float] | None = None
    names: list[str] = field(default_factory=list)

    def progress(self, stage: str, done: int, total: int) -> None:
        silent(stage, done, total)

    def run(self, proposals: Sequence[Proposal]) -> list[Trial]:
        self.names += [proposal.name for proposal in proposals]
        return [self._trial(proposal) for proposal in proposals]

    def _trial(self, proposal: Proposal) -> Trial:
        error = self.measure(proposal.assignment)
        held = None if self.heldout is None else (self.heldout(proposal.assignment),)
        totals = self.problem.evaluate(proposal.assignment)
        return Trial(proposal, totals, (0.9 * error, 1.1 * error), held)


@dataclass
class FakeJudge:
    """A metric that is a formula of the assignment."""

    loss: Callable[[Assignment], float]
    judged: int = 0

    def drop(self, assignment: Assignment) -> float:
        self.judged += 1
        return self.loss(assignment)

    def primary(self) -> str:
        return "accuracy"


def search(
    budget: Budget,
    session: FakeSession | None = None,
    judge: FakeJudge | None = None,
    trials: int = 4,
) -> Found:
    session = session or FakeSession(problem())
    limits = budget.limits(session.problem, baseline_latency_s=1.0)
    return find(
        cast("Session", session),
        build_frontier(session.problem),
        budget,
        limits,
        cast("Judge | None", judge),
        trials=trials,
        seed=0,
    )


@pytest.mark.parametrize("compression", [1.0, 2.0, 4.0, 7.0, 12.0, 16.0])
def test_with_errors_that_add_the_optimum_is_chosen(compression: float) -> None:
    found = search(Budget(compression=compression))
    assert found.chosen.totals.compression >= compression
    assert found.certificate.gap == pytest.approx(0, abs=1e-12)
    smaller = [t for t in found.trials if t.totals.compression >= compression]
    assert found.chosen.measured.error == min(t.measured.error for t in smaller)


@dataclass
class FakeRefinement:
    """Finds a plan that errs a little less, by less than two standard errors."""

    seen: list[tuple[Trial, list[Trial]]] = field(default_factory=list)

    def of(
        self, session: FakeSession, start: Trial, near: Sequence[Trial], *rest: object
    ) -> Refined:
        self.seen.append((start, list(near)))
        error, proposal = start.measured.error, start.proposal
        better = replace(
            start,
            proposal=replace(proposal, name="refined 1, 1 change", kind="refined"),
            errors=(0.7 * error, 1.2 * error),
        )
        return Refined(better, (better,))


def test_what_the_plan_was_refined_to_is_chosen() -> None:
    session, refinement = FakeSession(problem()), FakeRefinement()
    budget = Budget(compression=4.0)
    found = find(
        cast("Session", session), build_frontier(session.problem), budget,
        budget.limits(session.problem), None, trials=4, seed=0,
        refinement=cast("Refinement", refinement),
    )  # fmt: skip
    ((start, near),) = refinement.seen
    assert start.proposal.name == "optimum"
    assert start in near
    assert found.chosen.proposal.kind == "refined"
    assert found.chosen in found.trials


def test_the_uniform_plans_come_first_and_are_named() -> None:
    session = FakeSession(problem())
    found = search(Budget(compression=4.0), session)
    assert session.names[:3] == ["uniform 8", "uniform 4", "uniform 2"]
    assert [trial.proposal.name for trial in found.uniform] == session.names[:3]
    assert found.trials[:3] == found.uniform
    assert session.names[3] == "optimum"
    assert len(session.names) <= 3 + 4


def mixing_hurts(assignment: Assignment) -> float:
    """Errors that a mix of widths multiplies: the additive optimum is a trap."""
    return added(assignment) * 10.0 ** (len(set(assignment.values())) - 1)


def test_a_uniform_plan_wins_where_mixing_hurts_and_it_is_said() -> None:
    found = search(Budget(compression=3.0), FakeSession(problem(), mixing_hurts))
    assert found.chosen.proposal.name == "uniform 8"
    assert found.certificate.gap > 0  # what is certified is how far it is from the sum's optimum
    (note,) = found.notes
    assert note.startswith("uniform 8 bit already meets the demands")


def test_heldout_data_have_the_last_word() -> None:
    session = FakeSession(problem(), added, heldout=mixing_hurts)
    assert search(Budget(compression=3.0), session).chosen.proposal.name == "uniform 8"


def test_the_optimum_that_is_uniform_is_called_so() -> None:
    same = {f"u{i}": tuple(Choice(f, 1 / f.bits, f.bits, 1.0) for f in (W8, W4)) for i in range(3)}
    session = FakeSession(Problem(same, original_bytes=96), lambda a: 1.0)
    found = search(Budget(compression=4.0), session)
    assert found.chosen.proposal.assignment == found.uniform[0].proposal.assignment
    assert found.notes[0].startswith("uniform 8 bit already meets the demands")


def test_a_uniform_plan_within_the_noise_is_mentioned() -> None:
    session = FakeSession(problem(), lambda a: 1.0)  # every plan errs alike
    found = search(Budget(compression=4.5), session)
    (note,) = found.notes
    assert note.startswith("uniform w2 is as good here, within the noise of the data")
    assert "+0.0% ± 0.0% (two standard errors, 2 samples), at 16.00x against 4." in note


def smallest_by_hand(good: Callable[[Assignment], bool]) -> int:
    """Bytes of the smallest point of the frontier that is good; every size was tried."""
    frontier = build_frontier(problem())
    sizes = []
    for index in range(len(frontier)):
        assignment = frontier.assignment(index)
        if good(assignment):
            sizes.append(problem().evaluate(assignment).weight_bytes)
    return min(sizes)


STEP = (100 * 21 * 30) / 256 + 1
"""Bytes that eight halvings may leave between the answer and the best."""


@pytest.mark.parametrize("max_error", [0.0, 0.003, 0.05, 0.3, 1.0, 2.4, 9.0])
def test_max_error_alone_finds_the_smallest_plan(max_error: float) -> None:
    found = search(Budget(max_error=max_error))
    assert found.chosen.measured.error <= max_error
    best = smallest_by_hand(lambda a: added(a) <= max_error)
    assert best <= found.chosen.totals.weight_bytes <= best + STEP


@pytest.mark.parametrize("factor", [0.01, 0.5, 3.0, 1000.0], ids=lambda f: f"errors-x{f:g}")
def test_max_error_is_kept_by_the_measured_error(factor: float) -> None:
    """Even where measured errors are nowhere near their sum, in either direction."""

    def measured(assignment: Assignment) -> float:
        return factor * added(assignment)

    found = search(Budget(max_error=0.1), FakeSession(problem(), measured))
    assert found.chosen.measured.error <= 0.1
    best = smallest_by_hand(lambda a: measured(a) <= 0.1)
    assert found.chosen.totals.weight_bytes <= best + STEP


def test_max_error_that_only_the_original_keeps() -> None:
    found = search(Budget(max_error=0.0), FakeSession(problem(), lambda a: float(added(a) > 0)))
    assert found.chosen.totals.compression == 1.0


def test_max_error_with_a_size_is_kept_or_refused() -> None:
    assert search(Budget(max_error=0.5, compression=4.0)).chosen.measured.error <= 0.5
    with pytest.raises(InfeasibleError, match="together with the other demands: the least") as e:
        search(Budget(max_error=1e-3, compression=12.0))
    least = float(e.value.ranges["max_error"].removesuffix(" or more"))
    assert search(Budget(max_error=least, compression=12.0)).chosen.measured.error <= least


@pytest.mark.parametrize("max_drop", [0.0, 0.01, 0.05, 0.2, 0.6, 5.0])
def test_max_metric_drop_finds_the_smallest_kept(max_drop: float) -> None:
    def loss(assignment: Assignment) -> float:
        return 0.2 * math.sqrt(added(assignment))  # monotone in the error

    judge = FakeJudge(loss)
    found = search(Budget(max_metric_drop=max_drop), judge=judge)
    assert loss(found.chosen.proposal.assignment) <= max_drop
    best = smallest_by_hand(lambda a: loss(a) <= max_drop)
    assert found.chosen.totals.weight_bytes <= best + STEP


def test_a_smaller_uniform_plan_that_keeps_the_metric_is_taken() -> None:
    def loss(assignment: Assignment) -> float:
        return 0.0 if len(set(assignment.values())) == 1 else 1.0

    found = search(Budget(max_metric_drop=0.5), judge=FakeJudge(loss))
    assert found.chosen.proposal.name == "uniform 2"


def test_error_and_metric_demands_are_both_kept() -> None:
    judge = FakeJudge(lambda a: 0.1 * added(a))
    found = search(Budget(max_metric_drop=0.05, max_error=0.02), judge=judge)
    assert found.chosen.measured.error <= 0.02
    found = search(Budget(max_metric_drop=0.001, max_error=0.5), judge=judge)
    assert judge.loss(found.chosen.proposal.assignment) <= 0.001


def test_with_a_size_the_next_best_plan_that_keeps_the_metric_is_taken() -> None:
    def loss(assignment: Assignment) -> float:
        return float(W32 in assignment.values())

    # A plan with a unit at 32 bits fails the metric; the others are still there.
    judge = FakeJudge(loss)
    found = search(Budget(compression=3.0, max_metric_drop=0.5), judge=judge)
    assert W32 not in found.chosen.proposal.assignment.values()


def test_no_drop_is_small_enough() -> None:
    judge = FakeJudge(lambda a: 0.25 + added(a))
    with pytest.raises(InfeasibleError, match=r"--max-metric-drop 0\.1 cannot be met: the least"):
        search(Budget(max_metric_drop=0.1), judge=judge)
    with pytest.raises(InfeasibleError, match="together with the other demands") as caught:
        search(Budget(max_metric_drop=0.1, compression=4.0), judge=judge)
    assert float(caught.value.ranges["max_metric_drop"].removesuffix(" or more")) >= 0.25


def test_without_a_demand_on_the_metric_nothing_is_judged() -> None:
    judge = FakeJudge(lambda a: 0.0)
    search(Budget(compression=4.0), judge=judge)
    assert judge.judged == 0


@pytest.mark.parametrize("trials", [1, 2, 5])
def test_trials_bound_the_measuring(trials: int) -> None:
    session = FakeSession(problem())
    search(Budget(compression=5.0), session, trials=trials)
    assert len(session.names) <= 3 + trials


@st.composite
def rugged(draw: st.DrawFn) -> tuple[Problem, Callable[[Assignment, str], float]]:
    """A problem with several formats of a width, and measured errors that hardly add up."""
    fine, coarse = Format(4, 32), Format(4, 128)
    kinds = ((W32, 0.0), (W8, 0.01), (fine, 0.08), (W4, 0.1), (coarse, 0.13), (W2, 1.0))
    rows = {}
    for index in range(draw(st.integers(2, 5))):
        offered = [k for k in kinds if k[0] is W8 or draw(st.booleans())]
        harm, weights = draw(st.floats(0.01, 10.0)), 128 * draw(st.integers(1, 9))
        rows[f"u{index}"] = tuple(
            Choice(fmt, harm * error, fmt.stored_bytes(1, weights), 1e-3 * fmt.bits)
            for fmt, error in offered
        )
    chance = draw(st.integers(0, 99))
    made = Problem(rows, original_bytes=4 * 128 * 50)

    def measured(assignment: Assignment, data: str) -> float:
        named = ",".join(f"{unit}={fmt.name}" for unit, fmt in sorted(assignment.items()))
        shift = zlib.crc32(f"{chance} {data} {named}".encode()) / 2**32
        return made.evaluate(assignment).error * math.exp(6 * (shift - 0.5))

    return made, measured


def found_or_ranges(budget: Budget, session: FakeSession, judge: FakeJudge) -> Found | set[str]:
    try:
        return search(budget, session, judge)
    except InfeasibleError as refused:
        return set(refused.ranges)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    case=rugged(),
    share=st.floats(0, 1),
    error=st.none() | st.floats(0.01, 5.0),
    drop=st.none() | st.floats(0.01, 2.0),
    sized=st.booleans(),
)
def test_never_worse_than_a_plain_plan_of_no_more_bytes_and_every_demand_is_kept(
    case: tuple[Problem, Callable[[Assignment, str], float]],
    share: float,
    error: float | None,
    drop: float | None,
    sized: bool,
) -> None:
    made, measured = case
    low = made.extreme("weight_bytes").weight_bytes
    high = made.extreme("weight_bytes", largest=True).weight_bytes
    size = low + int(share * (high - low)) if sized or error is drop is None else None
    budget = Budget(max_size_bytes=size, max_error=error, max_metric_drop=drop)
    session = FakeSession(made, lambda a: measured(a, "seen"), lambda a: measured(a, "held out"))
    judge = FakeJudge(lambda a: measured(a, "metric"))
    found = found_or_ranges(budget, session, judge)
    if not isinstance(found, Found):
        assert found == set(budget.to_dict())
        return
    chosen = found.chosen
    assert size is None or chosen.totals.weight_bytes <= size
    assert error is None or chosen.measured.error <= error
    assert drop is None or judge.loss(chosen.proposal.assignment) <= drop
    assert {t.proposal.kind for t in found.plain} <= {"uniform", "single"}
    for rival in found.plain:
        keeps = (error is None or rival.measured.error <= error) and (
            drop is None or judge.loss(rival.proposal.assignment) <= drop
        )
        if keeps and rival.totals.weight_bytes <= chosen.totals.weight_bytes:
            assert chosen.judged_error <= rival.judged_error


def test_ties_hold_in_every_plan_that_is_measured() -> None:
    tied = problem().tied([("u0", "u5"), ("u1", "u2", "u3")])
    session = FakeSession(tied)
    for budget in (Budget(compression=6.0), Budget(max_error=0.1)):
        for trial in search(budget, session).trials:
            formats = trial.proposal.assignment
            assert formats["u0"] == formats["u5"]
            assert formats["u1"] == formats["u2"] == formats["u3"]


class BreaksTogether(nn.Module):
    """Finite while at most one of its layers is quantized, infinite when both are."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.large = nn.Parameter(torch.randn(64, 64, generator=generator))
        self.small = nn.Parameter(torch.randn(64, 16, generator=generator))
        self.kept = (self.large.detach().clone(), self.small.detach().clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = zip((self.large, self.small), self.kept, strict=True)
        changed = [not torch.equal(now, before) for now, before in weights]
        return x @ self.large @ self.small * (torch.inf if all(changed) else 1.0)


def test_plans_that_break_the_model_are_passed_over() -> None:
    model, x = BreaksTogether(), torch.randn(8, 64, generator=torch.Generator().manual_seed(1))
    result = mixq.search(model, x, hardware="intel_cpu", target_compression=2, bits=(32, 8))
    assert {name: layer.bits for name, layer in result.plan.layers.items()} == {
        "large": 8,
        "small": 32,
    }
    assert result.plan.uniform == {}
    assert "uniform 8 bit makes the output NaN or infinite" in result.plan.notes


def test_only_plans_that_break_the_model() -> None:
    model, x = BreaksTogether(), torch.randn(8, 64, generator=torch.Generator().manual_seed(1))
    with pytest.raises(NonFiniteError, match="all measured plans that keep the demands"):
        mixq.search(model, x, hardware="intel_cpu", target_compression=3.5, bits=(32, 8))
