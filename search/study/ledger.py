"""Ledger: which plans are measured, and by whom: each by one of all processes on a study.

A process claims a plan by a running trial with the plan's parameters. Two may do so at once: the
trial of the lower number is the claim, and the other one is given up. Storages number trials one
after the other, so whoever has made one sees all of lower numbers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import Study
from optuna.trial import Trial as OptunaTrial
from optuna.trial import TrialState

from mixq.errors import OutputError
from mixq.search.limits import Limits
from mixq.search.problem import Problem
from mixq.search.study.heartbeat import Heartbeat, Watch
from mixq.search.study.sampler import PlanSampler
from mixq.search.study.storage import CHANGED, storage_problems
from mixq.search.study.study import (
    LOST_CLAIM,
    OUTCOME,
    Errors,
    Key,
    finished,
    key_of,
    open_study,
    result_of,
    writing,
)
from mixq.search.trials import Proposal, Trial

POLL_S: Final = 0.2
"""Between two looks at what other processes measure."""
OLD_CONSTRAINTS: Final = "constraints"
"""Optuna's attribute of before 5.0, the only one that optuna-dashboard 0.21 reads."""


@dataclass(frozen=True)
class Claim:
    """A plan that this process is to measure, and its running trial."""

    proposal: Proposal
    number: int
    trial_id: int


class Ledger:
    """One study of one problem, under the limits of one search.

    Args:
        study: where trials are kept.
        storage: of the study.
        sampler: of the study.
        problem: whose plans they are.
        limits: that Optuna is told the trials keep or break.
        known: errors that are known without measuring, by plan.
        signed: whether errors may be negative.
    """

    def __init__(
        self,
        study: Study,
        storage: BaseStorage,
        sampler: PlanSampler,
        problem: Problem,
        limits: Limits | None = None,
        known: Mapping[Key, Errors] | None = None,
        *,
        signed: bool = False,
    ) -> None:
        self.study = study
        self.problem = problem
        self._storage = storage
        self._sampler = sampler
        self._limits = limits or Limits()
        self._known = dict(known or {})
        self._least = _least(signed=signed)
        self._units = set(problem.choices)
        self._done: dict[Key, Errors | None] = {}
        self._seen: set[int] = set()
        with writing(study):
            self._study_id = storage.get_study_id_from_name(study.study_name)
        self._watch = Watch(study, storage, self._study_id)

    def done(self) -> dict[Key, Errors | None]:
        """What the study holds by plan; None where a plan's output is not finite.

        Raises:
            OutputError: if the study cannot be read.
        """
        with writing(self.study):
            self._done |= finished(self.study, self._units, self._least, self._seen)
        return dict(self._done)

    def claim(self, proposals: Sequence[Proposal], most: int) -> list[Claim]:
        """The first `most` of the proposals that nobody has measured, nor is measuring.

        Raises:
            OutputError: if the study cannot be written.
        """
        claims: list[Claim] = []
        with writing(self.study):
            for proposal in proposals:
                if len(claims) == most:
                    break
                claim = self._claimed(proposal)
                if claim is not None:
                    claims.append(claim)
        return claims

    def known(self, claim: Claim) -> Errors | None:
        """Errors of a claimed plan that need no measuring."""
        return self._known.get(key_of(names_of(claim.proposal)))

    def heart(self, claims: Sequence[Claim]) -> Heartbeat:
        """Says that this process is measuring them, while a block runs."""
        return Heartbeat(self._storage, [claim.trial_id for claim in claims])

    def tell(self, claim: Claim, errors: Errors) -> None:
        """Write what was measured; if others have taken this process for dead, keep it in mind.

        Raises:
            OutputError: if the study cannot be written.
        """
        trial = self.trial(claim.proposal, errors)
        with writing(self.study):
            try:
                asked = OptunaTrial(self.study, claim.trial_id)
                asked.set_user_attr("errors", list(trial.errors))
                held = trial.heldout_errors
                asked.set_user_attr("heldout_errors", None if held is None else list(held))
                if self._limits.error is not None:
                    asked.set_constraint("error", trial.measured.error - self._limits.error)
                excess = list(asked.constraints.values())
                self._storage.set_trial_system_attr(claim.trial_id, OLD_CONSTRAINTS, excess)
                totals = trial.totals
                values = [trial.measured.error, totals.weight_bytes, totals.latency_s]
                self._storage.set_trial_state_values(claim.trial_id, TrialState.COMPLETE, values)
            except UpdateFinishedTrialError:
                self._known[key_of(names_of(claim.proposal))] = errors

    def fail(self, claim: Claim, outcome: str) -> None:
        """Write that a plan was not measured, and why.

        Raises:
            OutputError: if the study cannot be written.
        """
        with writing(self.study):
            self._fail(claim.trial_id, outcome)

    def look(self) -> None:
        """Fail the trials of processes that have died.

        Raises:
            OutputError: if the study cannot be written.
        """
        with writing(self.study):
            self._watch.look()

    def wait(self) -> None:
        """Some time for others to measure.

        Raises:
            OutputError: if the study cannot be written, or there are no others.
        """
        if not isinstance(self._storage, RDBStorage):
            raise OutputError(
                f"the study {self.study.study_name} has a plan that is being measured by nobody: "
                f"{CHANGED}"
            )
        self.look()
        time.sleep(POLL_S)

    def trial(self, proposal: Proposal, errors: Errors) -> Trial:
        """A proposal with its errors."""
        tuning, heldout = errors
        totals = self.problem.evaluate(proposal.assignment)
        return Trial(proposal, totals, tuple(tuning), None if heldout is None else tuple(heldout))

    def _claimed(self, proposal: Proposal) -> Claim | None:
        plan = names_of(proposal)
        if self._is_taken(plan):
            return None
        totals = self.problem.evaluate(proposal.assignment)
        limits = self._limits
        excess: dict[str, float] = {
            name: float(getattr(totals, name) - getattr(limits, name))
            for name in limits.given()
            if name != "error"
        }
        self._sampler.queue(plan)
        running = self._sampler.whole(
            {
                "name": proposal.name,
                "kind": proposal.kind,
                "compression": totals.compression,
                "predicted_error": totals.error,
            },
            excess,
        )
        trial_id = self._storage.create_new_trial(self._study_id, running)
        number = self._storage.get_trial_number_from_id(trial_id)
        if self._is_taken(plan, below=number):
            self._fail(trial_id, LOST_CLAIM)
            return None
        return Claim(proposal, number, trial_id)

    def _is_taken(self, plan: Mapping[str, str], below: float = math.inf) -> bool:
        """Whether a trial of a lower number measures a plan, or has done so."""
        return any(
            trial.params == plan
            and (trial.state == TrialState.RUNNING or result_of(trial, self._least) is not None)
            for trial in self.study.get_trials(deepcopy=False)
            if trial.number < below
        )

    def _fail(self, trial_id: int, outcome: str) -> None:
        try:
            self._storage.set_trial_user_attr(trial_id, OUTCOME, outcome)
            self._storage.set_trial_state_values(trial_id, TrialState.FAIL)
        except UpdateFinishedTrialError:  # by others, who took this process for dead
            return


def open_ledger(
    storage: BaseStorage,
    name: str,
    problem: Problem,
    limits: Limits,
    *,
    seed: int = 0,
    signed: bool = False,
) -> Ledger:
    """The ledger of a problem under some limits; what was measured under others is known.

    Each set of limits has a study of its own, because Optuna's constraints are written once: in
    a study that budgets share, its Pareto front would mix what keeps one and what keeps another.

    Args:
        storage: of the studies.
        name: of the problem's studies.
        problem: whose plans are measured.
        limits: of this search.
        seed: of the study's sampler.
        signed: whether errors may be negative.

    Raises:
        OutputError: if the storage cannot be read or written.
    """
    choices = {
        unit: [choice.format.name for choice in choices]
        for unit, choices in problem.choices.items()
    }
    sampler = PlanSampler(choices, seed)
    given = ",".join(f"{quantity}<={limits.of(quantity)!r}" for quantity in limits.given())
    own = f"{name} {given}" if given else name
    study = open_study(storage, own, sampler)
    known: dict[Key, Errors] = {}
    with storage_problems(f"the studies of {name} cannot be read"):
        for other in sorted(optuna.get_all_study_names(storage)):
            if other != own and (other == name or other.startswith(f"{name} ")):
                sibling = optuna.load_study(study_name=other, storage=storage)
                for key, errors in finished(sibling, set(problem.choices), _least(signed=signed)):
                    if errors is not None:
                        known[key] = errors
    ledger = Ledger(study, storage, sampler, problem, limits, known, signed=signed)
    ledger.look()
    return ledger


def names_of(proposal: Proposal) -> dict[str, str]:
    """Unit name to format name."""
    return {unit: fmt.name for unit, fmt in proposal.assignment.items()}


def _least(*, signed: bool) -> float:
    return -math.inf if signed else 0.0
