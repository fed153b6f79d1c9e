"""Joint error: the output error of a whole assignment, every unit quantized at once."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mixq.formats import Format
from mixq.graph.units import WeightUnit
from mixq.sensitivity.measured import quantized, replacement
from mixq.sensitivity.reference import Reference


def joint_errors(
    model: nn.Module,
    units: Mapping[str, WeightUnit],
    assignment: Mapping[str, Format],
    references: Mapping[str, Reference],
    what: str,
) -> dict[str, list[float]]:
    """Squared output error of every sample of every reference, the assignment in place.

    Raises:
        ModelError: if an output is NaN or infinite, naming `what`.
        FormatError: if a unit's weights do not fit their format.
    """
    weights = _weights(model, units, assignment)
    return {name: reference.errors(weights, what) for name, reference in references.items()}


def dequantized_copy(
    model: nn.Module, units: Mapping[str, WeightUnit], assignment: Mapping[str, Format]
) -> nn.Module:
    """A copy of `model` with the weights that the assignment would give it, as plain floats.

    It computes exactly what the packed model computes, at the original's speed.
    """
    changed = copy.deepcopy(model)
    tensors = {
        **dict(changed.named_parameters(remove_duplicate=False)),
        **dict(changed.named_buffers(remove_duplicate=False)),
    }
    with torch.no_grad():
        for name, weight in _weights(model, units, assignment).items():
            tensors[name].copy_(weight)
    return changed


def _weights(
    model: nn.Module, units: Mapping[str, WeightUnit], assignment: Mapping[str, Format]
) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    weights: dict[str, Tensor] = {}
    for name, fmt in assignment.items():
        if fmt.bits != 32:
            weights |= replacement(units[name], quantized(parameters[name], units[name], fmt))
    return weights
