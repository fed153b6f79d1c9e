"""Joint error: the output error of a whole assignment, every unit quantized at once."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from mixq.activations.wiring import install_quantizers
from mixq.formats import Format
from mixq.graph.copying import copied
from mixq.rounding.rounder import Rounder
from mixq.sensitivity.reference import Reference


def joint_errors(
    rounder: Rounder,
    assignment: Mapping[str, Format],
    references: Mapping[str, Reference],
    what: str,
) -> dict[str, list[float]]:
    """Output error of every sample of every reference, the assignment in place.

    Raises:
        ModelError: if an output is NaN or infinite, naming `what`.
        FormatError: if a unit's weights do not fit their format.
    """
    replacement = rounder.joint(assignment)
    return {name: reference.errors(replacement, what) for name, reference in references.items()}


def dequantized_copy(rounder: Rounder, assignment: Mapping[str, Format]) -> nn.Module:
    """A copy of the model with the weights that the assignment would give it, as plain floats.

    It computes exactly what the packed model computes, at the original's speed.
    """
    changed = copied(rounder.model)
    tensors = {
        **dict(changed.named_parameters(remove_duplicate=False)),
        **dict(changed.named_buffers(remove_duplicate=False)),
    }
    replacement = rounder.joint(assignment)
    with torch.no_grad():
        for name, weight in replacement.tensors.items():
            tensors[name].copy_(weight)
    install_quantizers(changed, replacement.inputs)
    return changed
