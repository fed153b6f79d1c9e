"""Sequence: the chosen plan rounded once more, with all data, and in the order of its units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from mixq.calibration import Calibration
from mixq.errors import FormatError, NonFiniteError
from mixq.graph.model_graph import ModelGraph
from mixq.quantize.methods import learns
from mixq.rounding.rounder import Rounder
from mixq.rounding.sequential import round_in_sequence
from mixq.search.session import Session
from mixq.search.trials import Trial
from mixq.sensitivity.joint import joint_errors

MOST_SAMPLES: Final = 4
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
    whole: Callable[[], Rounder],
    sequential: bool | None,
    measured_samples: int,
    accept: Callable[[Rounder, Trial], bool],
) -> Deployed:
    """The chosen trial, rounded with more data if that errs less on the data that judge plans.

    Plans are measured on samples that their rounding has not seen. What is deployed may learn
    from those too, and may be rounded in the order in which units run.

    Args:
        session: of the search.
        chosen: what it chose.
        graph: of the model.
        calibration: all that rounding may learn from.
        whole: gives a rounder that has learnt from it.
        sequential: whether to try that; None if it takes no longer than measuring has.
        measured_samples: samples that sensitivities were measured on.
        accept: whether a trial with a rounder's codes keeps what was demanded of errors and
            metrics; less error on the data that judge may be more on those that a demand is for.
    """
    best = Deployed(session.rounder, chosen)
    assignment = chosen.proposal.assignment
    if not any(map(learns, assignment.values())):
        return best
    rounder = whole()

    def with_all() -> Rounder:
        rounder.prepare({unit: (fmt,) for unit, fmt in assignment.items()}, session.progress)
        return rounder

    def in_sequence() -> Rounder:
        return round_in_sequence(rounder, graph, assignment, calibration, session.progress)

    ways = {"rounded with all calibration data": with_all}
    cheap = calibration.samples <= MOST_SAMPLES * measured_samples
    if sequential or (sequential is None and cheap):
        ways["rounded in sequence"] = in_sequence
    for what, rounding in ways.items():
        try:
            candidate = rounding()
            errors = joint_errors(candidate, assignment, session.references, what)
        except (FormatError, NonFiniteError):  # the plan as it was measured remains
            continue
        heldout = errors.get("heldout")
        trial = replace(
            chosen,
            errors=tuple(errors["calibration"]),
            heldout_errors=None if heldout is None else tuple(heldout),
        )
        if trial.judged_error < best.trial.judged_error and accept(candidate, trial):
            note = (
                f"{what}: error {trial.judged_error:.3g}; as it was measured beside other plans, "
                f"{chosen.judged_error:.3g}"
            )
            best = Deployed(candidate, trial, (note,))
    return best
