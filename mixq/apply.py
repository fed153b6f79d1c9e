"""Plan + model -> quantized model; with `mixq.artifact`, the only writer of modules."""

from __future__ import annotations

import copy

from torch import nn

from mixq.errors import FormatError, PlanError
from mixq.graph.state import StoredTensor, fingerprint, stored_tensors
from mixq.packed_module import attach
from mixq.plan import Layer, Plan
from mixq.quantize.weights import PackedWeight, pack_weight

ORIGIN = "_mixq_origin"
"""Attribute of an applied model: fingerprint of the model that it was made from."""


def apply(plan: Plan, model: nn.Module) -> nn.Module:
    """A copy of `model` whose units hold packed weights as the plan says.

    The copy computes with weights that are dequantized at every use: its outputs are those that
    were measured, its memory is small, and it is slower than the original. `model` is untouched.

    Raises:
        PlanError: if the plan is for other weights, or names a unit that the model lacks.
    """
    found = fingerprint(model)
    if found != plan.model.fingerprint:
        raise PlanError(
            f"the plan is for {plan.model.name} with weights {plan.model.fingerprint[:19]}..., "
            f"but this model's weights are {found[:19]}...; search again for this model"
        )
    stored = {item.names[0]: item for item in stored_tensors(model)}
    packed: dict[str, PackedWeight] = {}
    for name, layer in plan.layers.items():
        item = _checked(name, layer, stored)
        if layer.bits != 32:
            try:
                packed[name] = pack_weight(item.tensor, layer.format, *layer.matrix)
            except FormatError as error:
                raise PlanError(f"layer {name} cannot be stored as planned: {error}") from error
    quantized = copy.deepcopy(model)
    for name, weight in packed.items():
        replace_parameter(quantized, stored[name].names, weight)
    quantized.__dict__[ORIGIN] = found
    return quantized


def replace_parameter(model: nn.Module, names: tuple[str, ...], packed: PackedWeight) -> None:
    """Put packed weights, shared, where `model` has the parameter of these names."""
    for name in names:
        path, _, leaf = name.rpartition(".")
        owner = model.get_submodule(path)
        if leaf in owner._parameters:  # a module used twice has two names and one parameter
            attach(owner, leaf, packed)


def _checked(name: str, layer: Layer, stored: dict[str, StoredTensor]) -> StoredTensor:
    item = stored.get(name)
    if item is None or not item.is_parameter:
        raise PlanError(
            f"the plan has a layer {name!r:.100} that the model lacks; was it edited by hand?"
        )
    shape = tuple(item.tensor.shape)
    rows, columns = layer.matrix
    if tuple(layer.shape) != shape or rows * columns != item.tensor.numel():
        raise PlanError(
            f"the plan has layer {name} with shape {tuple(layer.shape)} as a {rows} x {columns} "
            f"matrix, but the model's has shape {shape}; search again for this model"
        )
    return item
