"""Plan + model -> quantized model; with `mixq.artifact`, the only writer of modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from mixq.equalize.structure import FoldedNames, folded_names
from mixq.errors import FormatError, PlanError
from mixq.graph.copying import copied
from mixq.graph.state import StoredTensor, fingerprint, stored_tensors
from mixq.packed_module import attach
from mixq.plan import Plan
from mixq.plan_parts import Layer
from mixq.plan_weights import weights_of
from mixq.quantize.weights import PackedWeight, pack_weight

ORIGIN: Final = "_mixq_origin"
"""Where an applied model keeps the fingerprint of the model that it was made from."""
FOLDS: Final = "_mixq_folds"
"""Where an applied model keeps which of its batch norms were folded."""


def apply(plan: Plan, model: nn.Module) -> nn.Module:
    """A copy of `model` whose units hold packed weights as the plan says.

    The copy computes with weights that are dequantized at every use: its outputs are those that
    were measured, its memory is small, and it is slower than the original. `model` is untouched.

    Raises:
        PlanError: if the plan is for other weights, names a unit that the model lacks, or `model`
            was applied to already.
    """
    _check_model(plan, model)
    weights, model = weights_of(plan, model)
    stored = _check_layers(plan, model)
    # Clones: whoever writes to the quantized model must not change the plan.
    packed = {
        name: replace(unit, tensors={part: t.clone() for part, t in unit.tensors.items()})
        for name, unit in weights.units.items()
    }
    for name, layer in plan.layers.items():
        if layer.bits != 32 and name not in packed:
            try:
                packed[name] = pack_weight(stored[name].tensor, layer.format, *layer.matrix)
            except FormatError as error:
                raise PlanError(
                    f"layer {name!r:.100} cannot be stored as planned: {error}"
                ) from error
    quantized = copied(model, shared=[stored[name].tensor for name in packed])
    for name, weight in packed.items():
        replace_parameter(quantized, stored[name].names, weight)
    replace_values(quantized, weights.others)
    set_origin(quantized, plan.model.fingerprint)
    if weights.equalization is not None:
        set_folds(quantized, folded_names(weights.equalization))
    return quantized


def check_fits(plan: Plan, model: nn.Module) -> None:
    """Refuse a plan that is not for exactly this model.

    Raises:
        PlanError: if the plan is for other weights, names a unit that the model lacks, or `model`
            was applied to already.
    """
    _check_model(plan, model)
    _check_layers(plan, model)


def replace_parameter(model: nn.Module, names: tuple[str, ...], packed: PackedWeight) -> None:
    """Put packed weights, shared, where `model` has the parameter of these names."""
    for name in names:
        path, _, leaf = name.rpartition(".")
        owner = model.get_submodule(path)
        if leaf in owner._parameters:  # a module used twice has two names and one parameter
            attach(owner, leaf, packed)


def replace_values(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Write new values into parameters and buffers of these names, which stay what they are."""
    state = model.state_dict(keep_vars=True)
    with torch.no_grad():
        for name, value in values.items():
            state[name].copy_(value)


def origin(model: nn.Module) -> str | None:
    """Fingerprint of the model that an applied or loaded model was made from; None for others."""
    found = _notes(model).get(ORIGIN)
    return found if isinstance(found, str) else None


def set_origin(model: nn.Module, fingerprint: str) -> None:
    """Mark `model` as holding packed weights."""
    _notes(model)[ORIGIN] = fingerprint


def folds(model: nn.Module) -> list[FoldedNames]:
    """The batch norms that an applied or loaded model has no more; see `mixq.equalize`."""
    return list(_notes(model).get(FOLDS, ()))


def set_folds(model: nn.Module, names: Sequence[FoldedNames]) -> None:
    """Remember the batch norms that are no more."""
    _notes(model)[FOLDS] = list(names)


def _notes(model: nn.Module) -> dict[str, Any]:
    # Of its attributes, a GraphModule takes only `meta` along into its copies.
    return model.meta if isinstance(model, GraphModule) else model.__dict__


def _check_model(plan: Plan, model: nn.Module) -> None:
    if origin(model) is not None:
        raise PlanError(
            f"{type(model).__name__} holds packed weights of a plan already; apply plans to the "
            "original model, which stays as it was"
        )
    found = fingerprint(model)
    if found != plan.model.fingerprint:
        raise PlanError(
            f"the plan is for {plan.model.name!r:.100} with weights "
            f"{plan.model.fingerprint[:19]!r}..., but this model's weights are {found[:19]!r}...; "
            "search again for this model"
        )


def _check_layers(plan: Plan, model: nn.Module) -> dict[str, StoredTensor]:
    """The model's stored tensors by name; it has every layer of the plan."""
    stored = {item.names[0]: item for item in stored_tensors(model)}
    for name, layer in plan.layers.items():
        _check_layer(name, layer, stored)
    return stored


def _check_layer(name: str, layer: Layer, stored: dict[str, StoredTensor]) -> None:
    item = stored.get(name)
    if item is None or not item.is_parameter:
        raise PlanError(
            f"the plan has a layer {name!r:.100} that the model lacks; was it edited by hand?"
        )
    shape = tuple(item.tensor.shape)
    if tuple(layer.shape) != shape or layer.matrix[0] * layer.matrix[1] != item.tensor.numel():
        raise PlanError(
            f"the plan has layer {name!r:.100} with shape {tuple(layer.shape)!r:.60} as a matrix "
            f"{layer.matrix!r:.60}, but the model's has shape {shape}; search again for this model"
        )
