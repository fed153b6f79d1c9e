"""Measuring: the effects of a plan's changes, each measured once and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mixq.errors import FormatError, NonFiniteError
from mixq.formats import Format
from mixq.progress import track
from mixq.search.refine.effects import Effects
from mixq.search.session import Session
from mixq.search.trials import Trial
from mixq.sensitivity.around import Around, Change
from mixq.sensitivity.store import Store

STAGE: Final = "measuring changes of the plan"


@dataclass(frozen=True)
class Measuring:
    """Measures changes on the calibration data of a search.

    Attributes:
        stores: where the changes of a plan are kept, so that an interrupted search goes on.
    """

    stores: Callable[[Mapping[str, Format]], Store]

    def __call__(self, session: Session, trial: Trial, changes: Sequence[Change]) -> Effects:
        """The effects of the changes; those that break the model or fit no weights are left out.

        Raises:
            OutputError: if the store cannot be written.
            ModelError: if the model cannot be measured around the plan.
        """
        assignment = trial.proposal.assignment
        store = self.stores(assignment)
        missing = [change for change in changes if store.get(*_key(change)) is None]
        if missing:
            around = Around(session.references["calibration"], session.rounder, assignment)
            ordered, done = around.ordered(missing), len(changes) - len(missing)
            for change in track(ordered, STAGE, len(changes), session.progress, done=done):
                try:
                    errors = around.errors(change)
                except (FormatError, NonFiniteError):
                    continue
                store.put(*_key(change), errors)
        found = {change: store.get(*_key(change)) for change in changes}
        known = {change: tuple(errors) for change, errors in found.items() if errors is not None}
        return Effects(assignment, trial.errors, known)


def _key(change: Change) -> tuple[str, str]:
    return "+".join(change.units), change.format.name
