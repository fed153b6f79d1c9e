"""Replacement: what takes the place of a model's own numbers while a plan is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor

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


def joined(parts: Iterable[Replacement]) -> Replacement:
    """All of them at once."""
    tensors: dict[str, Tensor] = {}
    inputs: dict[str, InputQuantizer] = {}
    for part in parts:
        tensors |= part.tensors
        inputs |= part.inputs
    return Replacement(tensors, inputs)
