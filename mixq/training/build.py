"""Builds the student of a plan: what is trained, what stays, what inputs go through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.autograd import Function

from mixq.activations.wiring import granularity, input_quantizer, quantizable_inputs
from mixq.errors import FormatError, PlanError, UsageError
from mixq.graph.find import find_units
from mixq.graph.state import StoredTensor
from mixq.plan import Plan
from mixq.plan_weights import PlanWeights
from mixq.quantize.weights import PackedWeight, pack_weight
from mixq.training.student import Student
from mixq.training.unit import TrainedUnit


def build_student(
    model: nn.Module,
    plan: Plan,
    stored: Mapping[str, StoredTensor],
    kept: PlanWeights,
    *,
    train_weights: bool,
    train_others: bool,
) -> Student:
    """The student that computes exactly what `plan.apply(model)` does.

    Args:
        model: the original.
        plan: for this model.
        stored: the model's stored tensors by name.
        kept: the plan's weights.
        train_weights: whether weights of quantized units are trained, beside their steps.
        train_others: whether parameters that are no unit are trained.

    Raises:
        UsageError: if nothing is left to train.
        PlanError: if a unit cannot be stored as planned.
    """
    fixed = dict(kept.others)
    units: dict[str, TrainedUnit] = {}
    packed = _packed(plan, stored, kept)
    for name, weight in packed.items():
        if weight.format.is_float:
            fixed[name] = weight.unpacked()
        else:
            units[name] = TrainedUnit(stored[name].tensor, weight, train_weights=train_weights)
    others = {
        name: fixed.pop(name, item.tensor)
        for name, item in stored.items()
        if train_others and name not in plan.layers and _is_trainable(item)
    }
    if not units and not others:
        raise UsageError(
            "the plan leaves nothing to train: no unit has 8, 4 or 2 bits; finetune a plan with "
            "such units"
        )
    return Student(model, stored, units, others, fixed, _inputs(model, plan, packed))


def _packed(
    plan: Plan, stored: Mapping[str, StoredTensor], kept: PlanWeights
) -> dict[str, PackedWeight]:
    packed = dict(kept.units)
    for name, layer in plan.layers.items():
        if layer.bits == 32 or name in packed:
            continue
        try:
            packed[name] = pack_weight(stored[name].tensor, layer.format, *layer.matrix)
        except FormatError as error:
            raise PlanError(f"layer {name!r:.100} cannot be stored as planned: {error}") from error
    return packed


def _is_trainable(item: StoredTensor) -> bool:
    # A window of another parameter's storage has no value of its own.
    return item.is_parameter and item.tensor.is_floating_point() and not item.window.overlaps


def _inputs(
    model: nn.Module, plan: Plan, packed: Mapping[str, PackedWeight]
) -> dict[str, Callable[[Tensor], Tensor]]:
    """What the inputs of modules go through where the plan rounds activations, with gradients."""
    rounded = [name for name, layer in plan.layers.items() if layer.activation != "none"]
    if not rounded:
        return {}
    units = [unit for unit in find_units(model) if unit.name in rounded]
    inputs: dict[str, Callable[[Tensor], Tensor]] = {}
    for name, paths in quantizable_inputs(model, units).items():
        own = packed[name]
        for path in paths:
            per = granularity(own.format, model.get_submodule(path))
            inputs[path] = _StraightThrough(input_quantizer(own.format, own.tensors, per=per))
    return inputs


class _StraightThrough:
    """A rounding whose gradient is the identity's."""

    def __init__(self, rounding: Callable[[Tensor], Tensor]) -> None:
        self._rounding = rounding

    def __call__(self, x: Tensor) -> Tensor:
        rounded: Tensor = _Through.apply(x, self._rounding)  # type: ignore[no-untyped-call]
        return rounded


class _Through(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rounding: Callable[[Tensor], Tensor]) -> Tensor:
        return rounding(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None
