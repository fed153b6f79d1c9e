"""The inputs of one operation, as the vectors that meet a weight's columns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor
from torch.nn import functional

BLOCK_BYTES = 32 * 2**20
"""Bytes of one block of unfolded inputs, so that a convolution costs no more memory than that."""


class Inputs(Protocol):
    """Vectors that meet the columns of a weight, computed from a tensor when they are needed."""

    @property
    def tensor(self) -> Tensor:
        """Where they come from."""
        ...

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for equal vectors, as long as nobody writes to the tensor or frees it."""
        ...

    def blocks(self) -> Iterator[Tensor]:
        """Float32 tensors of shape (groups, positions, columns), one after the other."""
        ...

    def copied(self) -> Self:
        """The same vectors, in memory that nobody else writes to."""
        ...


@dataclass(frozen=True, eq=False, slots=True)
class Vectors:
    """Inputs of a matrix product.

    Attributes:
        tensor: of shape (positions, columns).
        keep: bool of shape (positions,), the positions that count; None for all.
    """

    tensor: Tensor
    keep: Tensor | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """See `Inputs`."""
        return ("vectors", *_memory(self.tensor), id(self.keep))

    def blocks(self) -> Iterator[Tensor]:
        """See `Inputs`; one group."""
        positions, columns = self.tensor.shape
        size = max(BLOCK_BYTES // (4 * max(columns, 1)), 1)
        for low in range(0, positions, size):
            block = self.tensor[low : low + size]
            if self.keep is not None:
                block = block[self.keep[low : low + size]]
            yield block.to(torch.float32).unsqueeze(0)

    def copied(self) -> Vectors:
        """See `Inputs`."""
        return replace(self, tensor=self.tensor.clone())


@dataclass(frozen=True, eq=False, slots=True)
class Windows:
    """Inputs of a convolution: what lies under the kernel at every output position.

    Attributes:
        tensor: of shape (samples, channels, *space).
        kernel, stride, padding, dilation: one number per dimension of space.
        groups: of channels, each of which meets its own output channels.
        keep: bool of shape (samples * output positions,), those that count; None for all.
    """

    tensor: Tensor
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    keep: Tensor | None = None

    @property
    def outputs(self) -> tuple[int, ...]:
        """Output positions along every dimension of space."""
        return tuple(
            (size + 2 * pad - gap * (width - 1) - 1) // step + 1
            for size, width, step, pad, gap in zip(
                self.tensor.shape[2:],
                self.kernel,
                self.stride,
                self.padding,
                self.dilation,
                strict=True,
            )
        )

    def kept(self, keep: Tensor | None) -> Windows:
        """The windows at some positions: bool of shape (samples * output positions,)."""
        return replace(self, keep=keep)

    @property
    def key(self) -> tuple[object, ...]:
        """See `Inputs`."""
        geometry = (self.kernel, self.stride, self.padding, self.dilation, self.groups)
        return ("windows", *_memory(self.tensor), *geometry, id(self.keep))

    def blocks(self) -> Iterator[Tensor]:
        """See `Inputs`; columns in the order of a kernel flattened: channel, then space."""
        columns = self.tensor.shape[1] * math.prod(self.kernel)
        pads = [pad for size in reversed(self.padding) for pad in (size, size)]
        positions = math.prod(self.outputs)
        size = max(BLOCK_BYTES // max(4 * columns * positions, 1), 1)
        for low in range(0, self.tensor.shape[0], size):
            images = functional.pad(self.tensor[low : low + size].to(torch.float32), pads)
            for axis, (width, step, gap) in enumerate(
                zip(self.kernel, self.stride, self.dilation, strict=True), start=2
            ):
                images = images.unfold(axis, gap * (width - 1) + 1, step)[..., ::gap]
            keep = None
            if self.keep is not None:
                keep = self.keep[low * positions : (low + size) * positions]
            yield from self._cut(images, keep)

    def copied(self) -> Windows:
        """See `Inputs`."""
        return replace(self, tensor=self.tensor.clone())

    def _cut(self, windows: Tensor, keep: Tensor | None) -> Iterator[Tensor]:
        """Blocks of a view of shape (samples, channels, *outputs, *kernel)."""
        space = len(self.kernel)
        groups = self.groups
        # (groups, samples, *outputs, channels of a group, *kernel)
        ordered = windows.unflatten(1, (groups, -1)).movedim(1, 0).movedim(2, 2 + space)
        samples, first = ordered.shape[1:3]
        across = math.prod(ordered.shape[3 : 2 + space])  # positions of one step on the first axis
        columns = math.prod(ordered.shape[2 + space :])
        size = max(BLOCK_BYTES // max(4 * groups * columns * samples * across, 1), 1)
        for low in range(0, first, size):
            block = ordered[:, :, low : low + size].reshape(groups, -1, columns)
            if keep is not None:
                seen = keep.view(samples, first, across)[:, low : low + size]
                block = block[:, seen.flatten()]
            yield block


def _memory(tensor: Tensor) -> tuple[object, ...]:
    """Where a tensor lies; what equal addresses hold is equal while the tensor is alive."""
    return (
        str(tensor.device),
        tensor.data_ptr(),
        tensor.dtype,
        tuple(tensor.shape),
        tensor.stride(),
    )
