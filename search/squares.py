"""Squares: mean squared errors of a search's plans, whatever metric it went by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from mixq.rounding.rounder import Rounder
from mixq.search.session import Session
from mixq.search.trials import Trial
from mixq.sensitivity.estimate import Estimate
from mixq.sensitivity.joint import joint_errors


@dataclass(frozen=True)
class Square:
    """Mean squared error of one plan, on calibration and on held-out data."""

    measured: Estimate
    heldout: Estimate | None


@dataclass(frozen=True)
class Squares:
    """Mean squared errors that stand in a plan.

    Attributes:
        chosen: of the plan, as it is deployed.
        uniform: of the plans of one width or format by their proposals' names.
    """

    chosen: Square
    uniform: Mapping[str, Square]

    @classmethod
    def of(
        cls, session: Session, rounder: Rounder, chosen: Trial, uniform: Sequence[Trial]
    ) -> Self:
        """Taken from the trials if those are in squared errors, else measured once more.

        Args:
            session: of the search.
            rounder: knows the codes that the chosen plan is deployed with.
            chosen: the chosen plan.
            uniform: those of one width or format.
        """

        def square(by: Rounder, trial: Trial) -> Square:
            if session.references["calibration"].metric.name == "mse":
                return Square(trial.measured, trial.heldout)
            references = {part: known.in_squares() for part, known in session.references.items()}
            name, assignment = trial.proposal.name, trial.proposal.assignment
            errors = {
                part: Estimate.of(found)
                for part, found in joint_errors(by, assignment, references, name).items()
            }
            return Square(errors["calibration"], errors.get("heldout"))

        return cls(
            square(rounder, chosen),
            {trial.proposal.name: square(session.rounder, trial) for trial in uniform},
        )
