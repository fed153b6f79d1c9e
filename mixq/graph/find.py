"""Weight units of a model, found by parameter."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from mixq.errors import ModelError
from mixq.graph.state import StoredTensor, stored_tensors
from mixq.graph.units import WeightUnit

MIN_COLUMNS = 16
"""A last dimension shorter than the smallest group gives every few weights a scale of their own;
such a parameter is grouped over everything behind its first dimension instead."""


def find_units(model: nn.Module, stored: Sequence[StoredTensor] | None = None) -> list[WeightUnit]:
    """The floating-point parameters of two or more dimensions, in the model's order.

    A parameter that shows part of another's storage in another shape is no unit: packing the two
    one by one would break the tie, so both stay as they are.

    Args:
        model: any module.
        stored: its stored tensors, if they are known already.

    Raises:
        ModelError: if a weight is NaN or infinite, naming the parameter; if there is no unit.
    """
    stored = stored_tensors(model) if stored is None else stored
    for item in stored:
        if item.is_parameter and item.tensor.is_floating_point():
            check_finite(item.names[0], item.tensor)
    return units_of(model, stored)


def units_of(model: nn.Module, stored: Sequence[StoredTensor]) -> list[WeightUnit]:
    """As `find_units`, whose weights nobody looks at: they may lie on the meta device.

    Raises:
        ModelError: if there is no unit.
    """
    units = [
        _unit(item, model)
        for item in stored
        if item.is_parameter
        and item.tensor.is_floating_point()
        and item.tensor.dim() >= 2
        and item.tensor.numel() > 0
        and not item.window.overlaps
    ]
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


def _unit(item: StoredTensor, model: nn.Module) -> WeightUnit:
    shape = tuple(item.tensor.shape)
    owner = _owner(model, item.names[0])
    rows, columns = matrix_view(shape, is_convolution=isinstance(owner, _ConvNd))
    return WeightUnit(
        name=item.names[0],
        aliases=item.names[1:],
        shape=shape,
        rows=rows,
        columns=columns,
        element_bytes=item.tensor.element_size(),
        module=type(owner).__name__,
    )


def _owner(model: nn.Module, name: str) -> nn.Module:
    """The module whose parameter it is; of a parametrized weight, the one that uses it."""
    path = name.split(".")[:-1]
    if path[-2:-1] == ["parametrizations"]:
        path = path[:-2]
    return model.get_submodule(".".join(path))


def check_finite(name: str, tensor: Tensor) -> None:
    """Refuse a weight that is NaN or infinite.

    Raises:
        ModelError: naming the parameter.
    """
    # Widened, because torch has no isfinite for 8-bit floats.
    finite = torch.isfinite(tensor.float() if tensor.element_size() == 1 else tensor)
    if not bool(finite.all()):
        raise ModelError(
            f"parameter {name} has {int((~finite).sum())} NaN or infinite weights of "
            f"{tensor.numel()}; repair the checkpoint before quantizing it"
        )
