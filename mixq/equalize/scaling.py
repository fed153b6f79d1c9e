"""Scaling: a factor per channel that moves from the weights that make it to those that read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Purpose = Literal["cross-layer", "input"]


@dataclass(frozen=True, eq=False)
class Part:
    """A parameter whose elements belong to channels.

    Attributes:
        name: of the parameter.
        index: channel of every element, int32 of as many dimensions as the parameter, each its
            size or 1; one past the last channel for elements that belong to none.
    """

    name: str
    index: Tensor

    def of(self, values: Tensor, neutral: float) -> Tensor:
        """The channels' `values`, shape (channels,), by element; `neutral` where there is none."""
        padded = torch.cat([values, values.new_full((1,), neutral)])
        return padded[self.index.long()]

    def largest(self, weight: Tensor, channels: int) -> Tensor:
        """Largest magnitude of each channel's elements of `weight`; 0 for one without any."""
        others = tuple(i for i, size in enumerate(self.index.shape) if size == 1)
        magnitudes = weight.abs()
        magnitudes = magnitudes.amax(others, keepdim=True) if others else magnitudes
        found = torch.zeros(channels + 1, dtype=weight.dtype)
        found.scatter_reduce_(0, self.index.long().flatten(), magnitudes.flatten(), "amax")
        return found[:channels]


@dataclass(frozen=True, eq=False)
class Scaling:
    """Factors s > 0: what makes channel i is divided by s_i, what reads it is multiplied by s_i.

    Attributes:
        purpose: `cross-layer` balances the ranges of weights, `input` protects the weights that
            meet large inputs.
        factor: s, float32 of shape (channels,).
        producers: weights and biases that make the channels.
        consumers: weights that read them.
    """

    purpose: Purpose
    factor: Tensor
    producers: tuple[Part, ...]
    consumers: tuple[Part, ...]

    @property
    def parts(self) -> tuple[Part, ...]:
        """All that is scaled."""
        return self.producers + self.consumers

    def scale(self, tensors: Mapping[str, Tensor]) -> None:
        """Scale the named tensors in place, each element with one rounding."""
        with torch.no_grad():
            for part in self.producers:
                tensor = tensors[part.name]
                tensor.div_(part.of(self.factor, 1.0).to(tensor))
            for part in self.consumers:
                tensor = tensors[part.name]
                tensor.mul_(part.of(self.factor, 1.0).to(tensor))
