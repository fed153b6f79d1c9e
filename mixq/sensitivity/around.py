"""Around: output errors of plans that differ from one plan in a single choice."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mixq.errors import ModelError
from mixq.files import one_line
from mixq.formats import Format
from mixq.rounding.replacement import Replacement, joined
from mixq.rounding.rounder import Rounder
from mixq.sensitivity.device import moved
from mixq.sensitivity.engine import Engine
from mixq.sensitivity.joint import dequantized_copy
from mixq.sensitivity.reference import Reference

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Change:
    """Another format for a unit, or for units that take one format together."""

    units: tuple[str, ...]
    format: Format

    @property
    def name(self) -> str:
        """Of the units and the format, the same for the same change."""
        return f"{'+'.join(self.units)} at {self.format.name}"


class Around:
    """Measures changes of one plan, quickest in the order of `ordered`.

    What is compared with are the original's outputs; what is run is a copy of the model that has
    the plan in place, and of that only what follows the changed unit. Where activations are
    rounded before or after the change, or the model cannot be copied, the whole model is run.

    Args:
        reference: of the original.
        rounder: of the same model.
        assignment: the plan.

    Raises:
        FormatError: if a unit's weights do not fit their format.
    """

    def __init__(
        self, reference: Reference, rounder: Rounder, assignment: Mapping[str, Format]
    ) -> None:
        self._reference = reference
        self._rounder = rounder
        self._assignment = dict(assignment)
        self._originals = dict(rounder.model.named_parameters(remove_duplicate=False))
        self._engine: Engine | None = None
        try:
            changed = moved(dequantized_copy(rounder, assignment), str(reference.device))
        except (ModelError, RuntimeError, TypeError, ValueError, AttributeError) as error:
            # What deepcopy raises for locks, files and the like.
            _log.warning("the whole model is run for every change: %s", one_line(error, 300))
        else:
            self._engine = Engine(reference.around(changed))

    def ordered(self, changes: Iterable[Change]) -> list[Change]:
        """The changes in the order in which the model first reads what they replace."""
        if self._engine is None:
            return list(changes)
        order = self._engine.order
        return sorted(changes, key=lambda change: order(self._names(change)))

    def errors(self, change: Change) -> list[float]:
        """Output error of every sample with the plan and one change in place.

        Raises:
            FormatError: if a unit does not take the format.
            NonFiniteError: if an output is NaN or infinite.
            ModelError: if the shape of an output has changed.
        """
        formats = [change.format, *(self._assignment[unit] for unit in change.units)]
        if self._engine is None or any(fmt.activation != "none" for fmt in formats):
            plan = self._assignment | dict.fromkeys(change.units, change.format)
            return self._reference.errors(self._rounder.joint(plan), change.name)
        return self._engine.errors("+".join(change.units), self._replacement(change), change.name)

    def _replacement(self, change: Change) -> Replacement:
        """The change's tensors, and the original's where only the plan's format has another."""
        old = joined(self._rounder.replacement(u, self._assignment[u]) for u in change.units)
        new = joined(self._rounder.replacement(u, change.format) for u in change.units)
        back = {name: self._originals[name].detach() for name in old.tensors}
        return Replacement(back | dict(new.tensors), new.inputs)

    def _names(self, change: Change) -> list[str]:
        return [
            name for unit in change.units for name in (unit, *self._rounder.units[unit].aliases)
        ]
