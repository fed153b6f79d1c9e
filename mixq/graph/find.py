"""Weight units of a model, found by parameter."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from mixq.errors import ModelError
from mixq.graph.state import StoredTensor, stored_tensors
from mixq.graph.units import WeightUnit

MIN_COLUMNS = 16
"""A last dimension shorter than the smallest group gives every few weights a scale of their own;
such a parameter is grouped over everything behind its first dimension instead."""


def find_units(model: nn.Module, stored: Sequence[StoredTensor] | None = None) -> list[WeightUnit]:
    """The floating-point parameters of two or more dimensions, in the model's order.

    Raises:
        ModelError: if a weight is NaN or infinite, naming the parameter; if there is no unit.
    """
    units = []
    for item in stored_tensors(model) if stored is None else stored:
        tensor = item.tensor
        if not item.is_parameter or not tensor.is_floating_point():
            continue
        if not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise ModelError(
                f"parameter {item.names[0]} has {bad} NaN or infinite weights of "
                f"{tensor.numel()}; repair the checkpoint before quantizing it"
            )
        if tensor.dim() < 2 or tensor.numel() == 0 or _overlaps(item, stored, model):
            continue
        owner = model.get_submodule(item.names[0].rpartition(".")[0])
        rows, columns = matrix_view(tuple(tensor.shape), is_convolution=isinstance(owner, _ConvNd))
        units.append(
            WeightUnit(
                name=item.names[0],
                aliases=item.names[1:],
                shape=tuple(tensor.shape),
                rows=rows,
                columns=columns,
                element_bytes=tensor.element_size(),
                module=type(owner).__name__,
            )
        )
    if not units:
        raise ModelError(
            f"model {type(model).__name__} has no weight unit: no floating-point parameter of two "
            "or more dimensions; there is nothing to quantize"
        )
    return units


def matrix_view(shape: tuple[int, ...], *, is_convolution: bool) -> tuple[int, int]:
    """(rows, columns) in which a parameter of `shape` is quantized.

    A convolution is (output channels, the rest). Anything else is (the rest, last dimension),
    unless that is too short for a group.
    """
    count = math.prod(shape)
    if is_convolution or shape[-1] < MIN_COLUMNS:
        return shape[0], count // shape[0]
    return count // shape[-1], shape[-1]


def _overlaps(
    item: StoredTensor, stored: Sequence[StoredTensor] | None, model: nn.Module
) -> bool:
    """Whether another parameter shows part of the same storage in another shape.

    Such a pair cannot be packed one by one without breaking the tie, so it stays as it is.
    """
    others = stored_tensors(model) if stored is None else stored
    start = item.tensor.untyped_storage().data_ptr()
    first, last = _extent(item)
    return any(
        other is not item
        and other.names != item.names
        and other.tensor.untyped_storage().data_ptr() == start
        and _extent(other)[0] < last
        and first < _extent(other)[1]
        for other in others
    )


def _extent(item: StoredTensor) -> tuple[int, int]:
    """First and one past the last byte that the tensor touches in its storage."""
    tensor = item.tensor
    size = tensor.element_size()
    first = tensor.storage_offset() * size
    span = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return first, first + (span + 1) * size if tensor.numel() else first
