"""Session: everything that measuring whole plans of one model takes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mixq.progress import Progress
from mixq.rounding.rounder import Rounder
from mixq.search.problem import Problem
from mixq.search.study import ProposalSampler, run_trials
from mixq.search.trials import Proposal, Trial
from mixq.sensitivity.joint import joint_errors
from mixq.sensitivity.reference import Reference
from mixq.sensitivity.store import CODE_VERSION

if TYPE_CHECKING:
    from optuna.study import Study


@dataclass(frozen=True)
class Session:
    """A model with its references, its problem and the study that keeps the trials.

    Attributes:
        rounder: knows the model, its units and what the formats make of them.
        references: `calibration`, and `heldout` where there are held-out samples.
    """

    rounder: Rounder
    references: dict[str, Reference]
    problem: Problem
    study: Study
    sampler: ProposalSampler
    progress: Progress

    def run(self, proposals: Sequence[Proposal]) -> list[Trial]:
        """Measure the proposals that the study does not hold yet; all of them in their order."""
        return run_trials(
            self.study, self.sampler, self.problem, proposals, self._measure, self.progress,
            signed=self.references["calibration"].metric.is_signed,
        )  # fmt: skip

    def _measure(self, proposal: Proposal) -> tuple[Sequence[float], Sequence[float] | None]:
        errors = joint_errors(self.rounder, proposal.assignment, self.references, proposal.name)
        return errors["calibration"], errors.get("heldout")


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
