"""Plans that Optuna's own samplers propose, for comparison with exact solutions.

The sampler works on a study of its own in memory, which is played again from its first trial in
every process: what a plan errs by comes from the ledger, which measures it once. So the same seed
gives the same trials, after a kill and in any number of processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import Trial as OptunaTrial
from optuna.trial import TrialState

from mixq.formats import Format
from mixq.search.choice import Item
from mixq.search.frontier import Frontier
from mixq.search.limits import Limits
from mixq.search.problem import Problem
from mixq.search.request import Sampler
from mixq.search.session import Session
from mixq.search.study.storage import quiet
from mixq.search.trials import Proposal, Trial

BATCH: Final = 4
"""Plans that are proposed before the first of them is measured, for any number of workers."""
ATTEMPTS: Final = 50
"""Proposals for each trial, at most; those that break a limit on bytes or time are no trials."""
WARM: Final = 4
"""One of so many trials, at least one, is a start from the frontier."""


@dataclass(frozen=True)
class Sampled:
    """What a sampler found.

    Attributes:
        trials: measured plans, in the order of their proposal.
        started: how many of them it was made to start from.
        proposed: plans of its own, with those that break a limit.
    """

    sampler: Sampler
    trials: tuple[Trial, ...]
    started: int
    proposed: int

    @property
    def note(self) -> str:
        """What a user should know."""
        return (
            f"plans were proposed by Optuna's sampler {self.sampler}: "
            f"{len(self.trials) - self.started} new ones of its {self.proposed} keep the limits "
            f"and were measured, beside {self.started} from the exact frontier"
        )


def warm_start(
    frontier: Frontier, limits: Limits, optimum: Mapping[str, Format], trials: int
) -> list[Proposal]:
    """The additive optimum, and the next smaller points of the frontier that keep the limits."""
    proposals = [Proposal("optimum", "additive", optimum)]
    largest = frontier.problem.evaluate(optimum).weight_bytes
    index = frontier.best_under(largest).index
    while len(proposals) < max(trials // WARM, 1) and index > 0:
        index -= 1
        assignment = frontier.assignment(index)
        totals = frontier.problem.evaluate(assignment)
        if all(
            _excess(getattr(totals, name), limits.of(name)) <= 0
            for name in limits.given()
            if name != "error"
        ):
            proposals.append(Proposal(f"frontier -{len(proposals)}", "sampled", assignment))
    return proposals


def sample(
    session: Session,
    name: Sampler,
    limits: Limits,
    known: Sequence[Trial],
    start: Sequence[Proposal],
    *,
    trials: int,
    seed: int,
) -> Sampled:
    """Measure up to `trials` plans that the sampler proposes.

    A plan that breaks a limit on bytes or time is told with the error that the tables predict,
    and how far it is from the limits; it is not measured. Units of a tie are one parameter.

    Args:
        session: measures plans.
        name: of the sampler.
        limits: that plans are to keep.
        known: measured plans that the sampler learns from before its first proposal.
        start: plans that it is made to propose first; they count as trials.
        trials: plans to measure.
        seed: of the sampler.
    """
    with quiet():
        game = _Game(session.problem, name, limits, seed, trials)
    for trial in known:
        game.learn(trial)
    measured = _told(game, session, [(game.enqueued(p), p) for p in start])
    started = len(measured)
    attempts = ATTEMPTS * trials
    while len(measured) < trials and game.proposed < attempts:
        asked: list[tuple[OptunaTrial, Proposal]] = []
        while len(asked) < min(BATCH, trials - len(measured)) and game.proposed < attempts:
            fresh = game.ask()
            if fresh is not None:
                asked.append(fresh)
        measured += _told(game, session, asked)
    return Sampled(name, tuple(measured), started, game.proposed)


def _told(
    game: _Game, session: Session, asked: Sequence[tuple[OptunaTrial, Proposal]]
) -> list[Trial]:
    """The trials of what was asked, and the sampler told of them in that order."""
    found = {trial.proposal.name: trial for trial in session.run([p for _, p in asked])}
    for running, proposal in asked:
        game.tell(running, found.get(proposal.name))
    return [found[proposal.name] for _, proposal in asked if proposal.name in found]


class _Game:
    """Optuna's sampler on a study of its own."""

    def __init__(
        self, problem: Problem, name: Sampler, limits: Limits, seed: int, trials: int
    ) -> None:
        self.proposed = 0
        self._problem = problem
        self._limits = limits
        self._items: dict[str, Item] = {item.units[0]: item for item in problem.items}
        self._seen: dict[tuple[str, ...], float | None] = {}
        sampler, objectives = _sampler(name, seed, trials)
        self.study: Study = optuna.create_study(
            sampler=sampler, directions=["minimize"] * objectives
        )

    def learn(self, trial: Trial) -> None:
        """Tell of a measured plan as if the sampler had proposed it."""
        self.tell(self.enqueued(trial.proposal), trial)

    def enqueued(self, proposal: Proposal) -> OptunaTrial:
        """The trial of a plan that the sampler is made to propose."""
        assignment = proposal.assignment
        self.study.enqueue_trial({unit: assignment[unit].name for unit in self._items})
        running, _ = self._asked()
        return running

    def ask(self) -> tuple[OptunaTrial, Proposal] | None:
        """The sampler's next plan, if it has to be measured; what is known is told at once."""
        running, assignment = self._asked()
        self.proposed += 1
        key = self._key(assignment)
        totals = self._problem.evaluate(assignment)
        if key in self._seen:
            self._tell(running, assignment, self._seen[key])
            return None
        if max(self._excess(assignment).values(), default=0.0) > 0:
            self._seen[key] = totals.error
            self._tell(running, assignment, totals.error)
            return None
        self._seen[key] = None  # until it is measured, and if it cannot be
        return running, Proposal(f"sampled {self.proposed}", "sampled", assignment)

    def tell(self, running: OptunaTrial, trial: Trial | None) -> None:
        """What was measured; a plan that cannot be is a failed trial."""
        assignment = self._assignment(running.params)
        error = None if trial is None else trial.measured.error
        self._seen[self._key(assignment)] = error
        self._tell(running, assignment, error)

    def _asked(self) -> tuple[OptunaTrial, dict[str, Format]]:
        running = self.study.ask()
        assert running.relative_params is not None  # a generation of NSGA-II is given here alone
        for unit, item in self._items.items():
            running.suggest_categorical(unit, [fmt.name for fmt in item.formats])
        return running, self._assignment(running.params)

    def _assignment(self, params: Mapping[str, str]) -> dict[str, Format]:
        taken = {
            unit: fmt
            for first, item in self._items.items()
            for fmt in item.formats
            if fmt.name == params[first]
            for unit in item.units
        }
        return {unit: taken[unit] for unit in self._problem.choices}

    def _tell(
        self, running: OptunaTrial, assignment: Mapping[str, Format], error: float | None
    ) -> None:
        if error is None:
            self.study.tell(running, state=TrialState.FAIL)
            return
        for name, excess in self._excess(assignment, error).items():
            running.set_constraint(name, excess)
        values = [error, float(self._problem.evaluate(assignment).weight_bytes)]
        self.study.tell(running, values[: len(self.study.directions)])

    def _excess(
        self, assignment: Mapping[str, Format], error: float | None = None
    ) -> dict[str, float]:
        """How far a plan is above each limit, as a share of the limit."""
        totals = self._problem.evaluate(assignment)
        reached: dict[str, float] = {
            "weight_bytes": totals.weight_bytes,
            "latency_s": totals.latency_s,
            "peak_memory_bytes": totals.peak_memory_bytes,
        }
        if error is not None:
            reached["error"] = error
        return {
            name: _excess(reached[name], self._limits.of(name))
            for name in self._limits.given()
            if name in reached
        }

    def _key(self, assignment: Mapping[str, Format]) -> tuple[str, ...]:
        return tuple(assignment[unit].name for unit in self._problem.choices)


def _excess(value: float, limit: float | None) -> float:
    if limit is None:
        return 0.0
    return (value - limit) / limit if limit > 0 else value - limit


def _sampler(name: Sampler, seed: int, trials: int) -> tuple[BaseSampler, int]:
    """Optuna's sampler, and how many objectives it is given: NSGA-II sees error and bytes."""
    if name == "tpe":
        return TPESampler(seed=seed), 1
    if name == "nsga2":
        return NSGAIISampler(seed=seed, population_size=max(4, min(50, trials))), 2
    return RandomSampler(seed=seed), 1
