"""Session: everything that measuring whole plans of one model takes."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mixq.errors import MixqError
from mixq.progress import Progress
from mixq.rounding.rounder import Rounder
from mixq.search.problem import Problem
from mixq.search.study.ledger import Ledger
from mixq.search.study.rounds import run_trials
from mixq.search.study.study import Errors
from mixq.search.trials import Proposal, Trial
from mixq.sensitivity.reference import Reference
from mixq.sensitivity.store import CODE_VERSION
from mixq.sensitivity.whole import WholePlans

if TYPE_CHECKING:
    from optuna.study import Study


@dataclass(frozen=True)
class Session:
    """A model with its references, its problem and the study that keeps the trials.

    Attributes:
        plans: measures plans of the model on the references `calibration`, and `heldout` where
            there are held-out samples.
        ledger: who measures which, and what came of it.
    """

    plans: WholePlans
    ledger: Ledger
    progress: Progress

    @property
    def rounder(self) -> Rounder:
        """Knows the model, its units and what the formats make of them."""
        return self.plans.rounder

    @property
    def references(self) -> dict[str, Reference]:
        """What plans are measured on."""
        return dict(self.plans.references)

    @property
    def problem(self) -> Problem:
        """Units with their choices."""
        return self.ledger.problem

    @property
    def study(self) -> Study:
        """Optuna's study."""
        return self.ledger.study

    def run(self, proposals: Sequence[Proposal]) -> list[Trial]:
        """Measure the proposals that the study does not hold yet; all of them in their order.

        Any number of processes may do so on one study, each in the same order of calls: each
        plan is measured by one of them, and all get the same trials.
        """
        at_once = self.plans.workers
        return run_trials(self.ledger, proposals, self._measure, self.progress, at_once=at_once)

    def _measure(self, proposals: Sequence[Proposal]) -> Generator[tuple[int, Errors | MixqError]]:
        named = [(proposal.name, proposal.assignment) for proposal in proposals]
        for index, errors in self.plans.measure(named):
            if isinstance(errors, MixqError):
                yield index, errors
            else:
                yield index, (errors["calibration"], errors.get("heldout"))


def study_name(problem: Problem, *fingerprints: str) -> str:
    """Name of the study of a problem: the same weights, data and choices give the same name.

    Budgets are not part of it: plans that were measured for one budget serve the next. The
    fingerprints are those of everything that measured errors and prices depend on.
    """
    digest = hashlib.sha256("|".join((CODE_VERSION, *fingerprints)).encode())
    for unit, choices in sorted(problem.choices.items()):
        listed = ",".join(f"{c.format.name}:{c.latency_s!r}" for c in choices)
        digest.update(f"|{unit}={listed}".encode())
    return f"mixq-{digest.hexdigest()[:16]}"
