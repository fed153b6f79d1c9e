"""Windows: tensors that show overlapping parts of one storage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Window:
    """How one tensor lies over the others of its storage.

    Attributes:
        overlaps: whether another tensor shows some of the same elements.
        repeated: elements that an earlier tensor shows too, so that all tensors together have
            the sum of `numel() - repeated` elements.
    """

    overlaps: bool = False
    repeated: int = 0


ALONE: Final = Window()
"""Of a tensor that shares nothing."""


def windows(tensors: Sequence[Tensor]) -> list[Window]:
    """The window of each tensor, by the bytes that it touches."""
    found = [ALONE] * len(tensors)
    by_storage: dict[tuple[str, int], list[int]] = {}
    for index, tensor in enumerate(tensors):
        if tensor.numel():
            key = (str(tensor.device), tensor.untyped_storage().data_ptr())
            by_storage.setdefault(key, []).append(index)
    for members in by_storage.values():
        for cluster in _clusters(tensors, members):
            for index, window in zip(
                cluster, _windows([tensors[i] for i in cluster]), strict=True
            ):
                found[index] = window
    return found


def _clusters(tensors: Sequence[Tensor], members: list[int]) -> list[list[int]]:
    """Groups of two or more members whose extents touch, each in the order of the model.

    Flattened models keep all parameters in one storage; only neighbours are compared below.
    """
    clusters: list[list[int]] = []
    end = -1
    for index in sorted(members, key=lambda i: _extent(tensors[i])):
        first, last = _extent(tensors[index])
        if first >= end:
            clusters.append([])
        clusters[-1].append(index)
        end = max(end, last)
    return [sorted(cluster) for cluster in clusters if len(cluster) > 1]


def _windows(tensors: Sequence[Tensor]) -> list[Window]:
    start = min(_extent(tensor)[0] for tensor in tensors)
    length = max(_extent(tensor)[1] for tensor in tensors) - start
    count = torch.zeros(length, dtype=torch.int32)
    repeated = []
    for tensor in tensors:
        mine = torch.zeros(length, dtype=torch.bool)
        _bytes_of(mine, tensor, start).fill_(True)
        repeated.append(int((mine & (count > 0)).sum()) // tensor.element_size())
        count += mine
    return [
        Window(bool((_bytes_of(count, tensor, start) > 1).any()), again)
        for tensor, again in zip(tensors, repeated, strict=True)
    ]


def _bytes_of(per_byte: Tensor, tensor: Tensor, start: int) -> Tensor:
    """The entries of `per_byte`, which begins at byte `start`, for the bytes of `tensor`."""
    size = tensor.element_size()
    return per_byte.as_strided(
        (*tensor.shape, size),
        (*(stride * size for stride in tensor.stride()), 1),
        _extent(tensor)[0] - start,
    )


def _extent(tensor: Tensor) -> tuple[int, int]:
    """First and one past the last byte that the tensor touches in its storage."""
    size = tensor.element_size()
    first = int(tensor.storage_offset()) * size
    span = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return first, first + (int(span) + 1) * size
