"""Optuna's own samplers: they keep the limits, and the same seed gives the same trials."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import cast, get_args

import pytest
from optuna.storages import BaseStorage, InMemoryStorage

from mixq.errors import InfeasibleError, MixqError, NonFiniteError, UsageError
from mixq.formats import Format
from mixq.progress import silent
from mixq.search.budget import Budget
from mixq.search.choice import Choice
from mixq.search.find import Found, find
from mixq.search.frontier import build_frontier
from mixq.search.limits import Limits
from mixq.search.problem import Problem
from mixq.search.request import Request, Sampler
from mixq.search.session import Session
from mixq.search.study.ledger import open_ledger
from mixq.search.study.rounds import run_trials
from mixq.search.study.sampled import _Game
from mixq.search.study.study import Errors
from mixq.search.trials import Proposal, Trial

SAMPLERS = tuple(name for name in get_args(Sampler) if name != "mixq")
W4 = Format(4, 64)
FORMATS = {Format(32): 0.0, Format(8, 64): 0.01, W4: 0.1, Format(2, 64): 1.0}
SEVENTH = Budget(compression=7.0)


def problem(*, tied: bool = False) -> Problem:
    """Eight units of growing size and falling sensitivity."""
    return Problem(
        {
            f"u{i}": tuple(
                Choice(fmt, error / (i + 1), 100 * (i + 1) * fmt.bits, 1e-3 * fmt.bits)
                for fmt, error in FORMATS.items()
            )
            for i in range(8)
        },
        original_bytes=100 * 36 * 32,
        ties=(("u0", "u1"), ("u6", "u7")) if tied else (),
    )


def interacting(assignment: Mapping[str, Format]) -> float:
    """Errors that do not add: neighbours in two bits harm each other."""
    harms = [FORMATS[fmt] / (i + 1) for i, fmt in enumerate(assignment.values())]
    return sum(harms) + sum(math.sqrt(a * b) for a, b in pairwise(harms))


@dataclass
class Measured:
    """A session that measures by a formula, on a study of Optuna's."""

    problem: Problem = field(default_factory=problem)
    storage: BaseStorage = field(default_factory=InMemoryStorage)
    budget: Budget = SEVENTH
    broken: str = ""
    dies_after: int = 1000
    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ledger = open_ledger(
            self.storage, "s", self.problem, self.budget.limits(self.problem)
        )

    def progress(self, stage: str, done: int, total: int) -> None:
        silent(stage, done, total)

    def run(self, proposals: Sequence[Proposal]) -> list[Trial]:
        return run_trials(self.ledger, proposals, self._measure, silent)

    def _measure(self, proposals: Sequence[Proposal]) -> Generator[tuple[int, Errors | MixqError]]:
        for index, proposal in enumerate(proposals):
            if len(self.names) == self.dies_after:
                raise KeyboardInterrupt
            self.names.append(proposal.name)
            error = interacting(proposal.assignment)
            broken = proposal.name == self.broken
            yield index, NonFiniteError("x") if broken else ([0.9 * error, 1.1 * error], None)

    def find(self, sampler: Sampler, trials: int = 16, seed: int = 0) -> Found:
        return find(
            cast("Session", self), build_frontier(self.problem), self.budget,
            self.budget.limits(self.problem), None, trials=trials, seed=seed, sampler=sampler,
        )  # fmt: skip


def plans(found: Found) -> list[tuple[str, tuple[str, ...], float]]:
    return [
        (
            trial.proposal.name,
            tuple(fmt.name for fmt in trial.proposal.assignment.values()),
            trial.measured.error,
        )
        for trial in found.trials
    ]


@pytest.mark.parametrize("sampler", SAMPLERS)
class TestEverySampler:
    def test_it_measures_as_many_plans_as_asked_that_keep_the_limits(
        self, sampler: Sampler
    ) -> None:
        found = Measured().find(sampler)
        measured = found.trials[len(found.uniform) :]
        assert len(measured) == 16
        assert all(trial.totals.compression >= 7 for trial in measured)
        assert [trial.proposal.kind for trial in measured] == ["additive"] + ["sampled"] * 15
        keys = [tuple(trial.proposal.assignment.values()) for trial in measured]
        assert len(set(keys)) == 16

    def test_it_starts_from_the_frontier(self, sampler: Sampler) -> None:
        session = Measured()
        session.find(sampler)
        assert session.names[3:7] == ["optimum", "frontier -1", "frontier -2", "frontier -3"]

    def test_the_plan_is_never_worse_than_the_optimum_of_added_errors(
        self, sampler: Sampler
    ) -> None:
        found = Measured().find(sampler)
        (optimum,) = (t for t in found.trials if t.proposal.kind == "additive")
        assert found.chosen.measured.error <= optimum.measured.error

    def test_the_seed_says_all(self, sampler: Sampler) -> None:
        first, again, other = (Measured().find(sampler, seed=seed) for seed in (1, 1, 2))
        assert plans(first) == plans(again)
        assert plans(first) != plans(other)

    @pytest.mark.parametrize("dies_after", [1, 5, 9, 15])
    def test_resumed_it_proposes_what_it_would_have(
        self, sampler: Sampler, dies_after: int
    ) -> None:
        expected = Measured()
        whole = expected.find(sampler)
        storage = InMemoryStorage()
        with pytest.raises(KeyboardInterrupt):
            Measured(storage=storage, dies_after=dies_after).find(sampler)
        resumed = Measured(storage=storage)
        assert plans(resumed.find(sampler)) == plans(whole)
        assert resumed.names == expected.names[dies_after:]

    def test_units_of_a_tie_take_one_format(self, sampler: Sampler) -> None:
        session = Measured(problem(tied=True))
        for trial in session.find(sampler).trials:
            assignment = trial.proposal.assignment
            assert assignment["u0"] == assignment["u1"]
            assert assignment["u6"] == assignment["u7"]

    def test_a_plan_that_cannot_be_measured_is_no_trial(self, sampler: Sampler) -> None:
        found = Measured(broken="frontier -1").find(sampler)
        assert len(found.trials) == len(found.uniform) + 16
        assert "frontier -1" not in [trial.proposal.name for trial in found.trials]

    def test_it_ends_where_nothing_new_keeps_the_limits(self, sampler: Sampler) -> None:
        found = Measured(budget=Budget(compression=16.0)).find(sampler, trials=4)
        (smallest,) = {tuple(t.proposal.assignment.values()) for t in found.trials[3:]}
        assert {fmt.bits for fmt in smallest} == {2}
        assert "0 new ones of its 200 keep the limits" in found.notes[0]

    def test_limits_on_time_and_error_are_kept(self, sampler: Sampler) -> None:
        limits = Budget(max_latency_s=0.04, max_error=1.0)
        found = Measured(budget=limits).find(sampler, trials=4)
        assert found.chosen.totals.latency_s <= 0.04
        assert found.chosen.measured.error <= 1.0
        with pytest.raises(InfeasibleError, match="least measured error"):
            Measured(budget=Budget(max_latency_s=0.04, max_error=1e-9)).find(sampler, trials=2)


def test_the_note_counts() -> None:
    found = Measured().find("random")
    own = [trial for trial in found.trials if trial.proposal.name.startswith("sampled")]
    assert found.notes[0].startswith(
        f"plans were proposed by Optuna's sampler random: {len(own)} new ones of its "
    )
    assert found.notes[0].endswith("beside 4 from the exact frontier")


def test_known_plans_are_in_the_population_of_nsga2() -> None:
    """Trials without a generation have no children."""
    session = Measured()
    game = _Game(session.problem, "nsga2", Limits(weight_bytes=10_000), 0, 8)
    (known,) = session.run([Proposal("x", "uniform", dict.fromkeys(session.problem.choices, W4))])
    game.learn(known)
    game.ask()
    for trial in game.study.trials:
        assert [v for key, v in trial.system_attrs.items() if key.endswith("generation")] == [0]


def test_samplers_differ() -> None:
    assert len({tuple(plans(Measured().find(sampler))) for sampler in SAMPLERS}) == 3


@pytest.mark.parametrize(
    ("sampler", "budget", "message"),
    [
        ("cmaes", SEVENTH, "--sampler is 'cmaes', but it must be one of mixq, tpe, nsga2, random"),
        ("tpe", Budget(max_error=0.1), "add one, such as --target-compression 6"),
        ("random", Budget(max_metric_drop=0.1), "or use --sampler mixq"),
    ],
)
def test_what_makes_no_sense_is_refused(sampler: str, budget: Budget, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Request(budget, sampler=cast("Sampler", sampler))
    assert Limits().objective == "weight_bytes"
