"""Sites: where the network meets a parameter whose channels could be scaled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["linear", "convolution", "norm", "batch norm"]


@dataclass(frozen=True, slots=True)
class Layout:
    """How the channels lie in a weight.

    A matrix product has one axis of outputs and one of inputs. With `groups`, the second axis
    counts the channels of one group, and the first is cut into the groups.

    Attributes:
        shape: of the weight.
        outputs: axis of the output channels.
        inputs: axis of the input channels; None for a norm, which works on every channel alone.
    """

    shape: tuple[int, ...]
    outputs: int
    inputs: int | None = None
    groups: int = 1

    @property
    def output_channels(self) -> int:
        """Number of output channels of all groups."""
        return self.shape[self.outputs] * (self.groups if self.outputs == 1 else 1)

    def index(self, channels: Tensor, axis: int) -> Tensor:
        """Channel of every weight, int32 of a shape that broadcasts to that of the weight.

        Args:
            channels: what to write for each channel of the axis, all groups in a row.
            axis: `outputs` or `inputs`.
        """
        shape = [1] * len(self.shape)
        if axis == 1 and self.groups > 1:
            per_row = channels.view(self.groups, -1)
            channels = per_row.repeat_interleave(self.shape[0] // self.groups, dim=0)
            shape[0] = self.shape[0]
        shape[axis] = self.shape[axis]
        return channels.to(torch.int32).reshape(shape)


@dataclass(slots=True)
class Site:
    """One operation that reads a weight, and the labels on both sides of it.

    Attributes:
        kind: what the operation does.
        module: path of the module that ran it.
        weight: name of the weight; None for a batch norm without one.
        layout: of the weight, or of the channels of a batch norm.
        bias: name of the parameter that is added to the outputs.
        first: label of the first output channel, the others follow; None if it has no labels
            because something is added that is no parameter.
        inputs: label of every input channel, as `mixq.equalize.labels` writes them; None for
            operations whose input must not be scaled.
        is_padded: whether inputs are nought outside of their borders.
    """

    kind: Kind
    module: str
    weight: str | None
    layout: Layout
    bias: str | None = None
    first: int | None = None
    inputs: Tensor | None = None
    is_padded: bool = False

    @property
    def channels(self) -> int:
        """Number of output channels."""
        return self.layout.output_channels

    def reads(self, other: Site) -> Tensor:
        """For every input channel, the output channel of `other` that it is, or `other.channels`.

        Shape (input channels,), int64.
        """
        if self.inputs is None:
            return torch.empty(0, dtype=torch.int64)
        if other.first is None:
            return torch.full(self.inputs.shape, other.channels)
        channel = self.inputs.long() - other.first
        is_of_other = (channel >= 0) & (channel < other.channels)
        return torch.where(is_of_other, channel, other.channels)
