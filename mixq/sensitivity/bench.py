"""Bench: one model on one part of the data, where formats of its units are measured in turn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

import torch

from mixq.formats import Format
from mixq.graph.units import WeightUnit
from mixq.rounding.replacement import Carried, Replacement
from mixq.rounding.rounder import Rounder
from mixq.sensitivity.engine import Engine
from mixq.sensitivity.reference import Reference

Step: TypeAlias = tuple[WeightUnit, Format]
"""What one measurement is of."""
Found: TypeAlias = tuple[WeightUnit, Format, list[float] | str]
"""Errors of every sample in a step, or why the unit does not take the format."""
NOTHING: Final = Carried()


class Bench:
    """Measures steps, quickest in the order of `ordered`.

    Args:
        reference: what is compared with.
        rounder: of the same model, or of the one that the reference's is a copy of elsewhere.
    """

    def __init__(self, reference: Reference, rounder: Rounder) -> None:
        self._reference = reference
        self._rounder = rounder
        self._parameters = dict(rounder.model.named_parameters(remove_duplicate=False))
        self._engine = Engine(reference)

    def ordered(self, steps: Iterable[Step]) -> list[Step]:
        """The steps in the order in which the model first reads what they replace."""
        return sorted(steps, key=lambda step: self._engine.order(self._names(*step)))

    def errors(self, unit: WeightUnit, fmt: Format, carried: Carried = NOTHING) -> list[float]:
        """Squared output error of every sample.

        Args:
            unit: of the model.
            fmt: what it is measured in.
            carried: what the format makes of it, as far as the rounder is not to find out.

        Raises:
            FormatError: if the unit does not take the format.
            ModelError: if an output is NaN or infinite, or has changed its shape.
        """
        replacement = self._rounder.replacement(unit.name, fmt, carried.packed, carried.bias)
        if not replacement.inputs and not self._differ(replacement):  # nothing has to be run
            return [0.0] * self._reference.samples
        return self._engine.errors(unit.name, replacement, f"{unit.name} at {fmt.name}")

    def _names(self, unit: WeightUnit, fmt: Format) -> Sequence[str]:
        """The tensors that a format of a unit replaces."""
        bias = self._rounder.biases.get(unit.name) if fmt.bias_corrected else None
        return [unit.name, *unit.aliases, *([] if bias is None else [bias])]

    def _differ(self, replacement: Replacement) -> bool:
        return not all(
            torch.equal(self._parameters[name], t) for name, t in replacement.tensors.items()
        )
