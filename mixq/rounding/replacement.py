"""Replacement: what takes the place of a model's own numbers while a plan is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor

from mixq.quantize.weights import PackedWeight

InputQuantizer: TypeAlias = Callable[[Tensor], Tensor]
"""Rounds the activations that enter a module."""


@dataclass(frozen=True, eq=False)
class Replacement:
    """New numbers for a model.

    Attributes:
        tensors: parameter name to its value, under every name that the model has for it.
        inputs: module path to what its input goes through first.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    inputs: Mapping[str, InputQuantizer] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Carried:
    """What a format makes of a unit, as far as the unit's weights alone do not tell.

    Attributes:
        packed: its codes.
        bias: its bias, corrected.
    """

    packed: PackedWeight | None = None
    bias: Tensor | None = None


def joined(parts: Iterable[Replacement]) -> Replacement:
    """All of them at once."""
    tensors: dict[str, Tensor] = {}
    inputs: dict[str, InputQuantizer] = {}
    for part in parts:
        tensors |= part.tensors
        inputs |= part.inputs
    return Replacement(tensors, inputs)
