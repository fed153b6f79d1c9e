"""Sequence: the chosen plan rounded once more, in the order in which units run, if that helps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from mixq.calibration import Calibration
from mixq.errors import FormatError, NonFiniteError
from mixq.graph.model_graph import ModelGraph
from mixq.rounding.rounder import Rounder
from mixq.rounding.sequential import round_in_sequence
from mixq.search.session import Session
from mixq.search.trials import Trial
from mixq.sensitivity.joint import joint_errors

MOST_SAMPLES: Final = 2
"""Rounding in sequence is left to those who ask for it where it learns from more than so many
times the samples that sensitivities are measured on: it would take longer than all the rest."""


@dataclass(frozen=True)
class Deployed:
    """What is deployed of a chosen trial.

    Attributes:
        rounder: knows the codes.
        trial: the chosen one, with the errors that these codes give.
        notes: what a user should know.
    """

    rounder: Rounder
    trial: Trial
    notes: tuple[str, ...] = ()


def deployed(
    session: Session,
    chosen: Trial,
    graph: ModelGraph,
    calibration: Calibration,
    *,
    sequential: bool | None,
    measured_samples: int,
    accept: Callable[[Rounder, Trial], bool],
) -> Deployed:
    """The chosen trial, rounded in sequence if that errs less on the data that judge plans.

    Args:
        session: of the search.
        chosen: what it chose.
        graph: of the model.
        calibration: what rounding learns from.
        sequential: whether to try; None if it takes no longer than measuring has.
        measured_samples: samples that sensitivities were measured on.
        accept: whether a trial with a rounder's codes keeps what was demanded of errors and
            metrics; less error on the data that judge may be more on those that a demand is for.
    """
    assignment = chosen.proposal.assignment
    learns = any(fmt.method == "gptq" for fmt in assignment.values())
    cheap = calibration.samples <= MOST_SAMPLES * measured_samples
    if not learns or sequential is False or (sequential is None and not cheap):
        return Deployed(session.rounder, chosen)
    try:
        rounder = round_in_sequence(
            session.rounder, graph, assignment, calibration, session.progress
        )
        errors = joint_errors(rounder, assignment, session.references, "rounding in sequence")
    except (FormatError, NonFiniteError):  # the plan as it was measured remains
        return Deployed(session.rounder, chosen)
    heldout = errors.get("heldout")
    trial = replace(
        chosen,
        errors=tuple(errors["calibration"]),
        heldout_errors=None if heldout is None else tuple(heldout),
    )
    if trial.judged_error >= chosen.judged_error or not accept(rounder, trial):
        return Deployed(session.rounder, chosen)
    note = (
        f"rounded in sequence: error {trial.judged_error:.3g} where each layer rounded by itself "
        f"gives {chosen.judged_error:.3g}"
    )
    return Deployed(rounder, trial, (note,))
