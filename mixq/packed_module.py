"""Modules that hold packed weights: the parameter becomes a property that dequantizes.

A module whose parameter is replaced changes its class to a subclass with a property of the
parameter's name, so that every reader of `module.weight` sees the dequantized weights, whether it
is the module's own forward, a parent that reaches in (MultiheadAttention), or a tied head. The
packed tensors are buffers of the same module, `weight__codes`, `weight__scales`, `weight__zeros`
or `weight__half`, so that `state_dict()` and `.to()` see them and no new children appear.

Weights are dequantized at every access and not kept: small in memory, slower than 32 bits.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from mixq.formats import Format
from mixq.quantize.weights import PackedWeight, unpack_weight

_SLOTS = "_mixq_slots"
_PARTS = ("codes", "scales", "zeros", "half")


@dataclass(frozen=True, slots=True)
class Slot:
    """What a packed parameter's buffers mean; see `PackedWeight`."""

    format: Format
    shape: tuple[int, ...]
    rows: int
    columns: int
    dtype: torch.dtype


def attach(module: nn.Module, name: str, packed: PackedWeight) -> None:
    """Replace the parameter `name` of `module`, in place, by its packed weights."""
    del module._parameters[name]
    for part, tensor in packed.tensors.items():
        module.register_buffer(buffer_name(name, part), tensor)
    slots: dict[str, Slot] = {
        **getattr(module, _SLOTS, {}),
        name: Slot(packed.format, packed.shape, packed.rows, packed.columns, packed.dtype),
    }
    setattr(module, _SLOTS, slots)
    original = type(module)._mixq_original if len(slots) > 1 else type(module)  # type: ignore[attr-defined]
    if isinstance(module, nn.RNNBase):
        # The list would keep the 32-bit weights alive; the property below takes its place.
        module.__dict__.pop("_flat_weights", None)
        module.__dict__["_flat_weight_refs"] = []
    module.__class__ = _packed_class(original, tuple(slots))


def buffer_name(parameter: str, part: str) -> str:
    """Name of the buffer that holds one part of a packed parameter."""
    return f"{parameter}__{part}"


def packed_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, Slot]]:
    """(full name, module, parameter name, slot) of every packed parameter, in module order."""
    for path, module in model.named_modules(remove_duplicate=True):
        for name, slot in getattr(module, _SLOTS, {}).items():
            yield (f"{path}.{name}" if path else name), module, name, slot


def packed_tensors(module: nn.Module, name: str) -> dict[str, Tensor]:
    """The stored tensors of one packed parameter by part."""
    buffers = module._buffers
    found = {part: buffers.get(buffer_name(name, part)) for part in _PARTS}
    return {part: tensor for part, tensor in found.items() if tensor is not None}


def _dequantized(module: nn.Module, name: str) -> Tensor:
    slot: Slot = getattr(module, _SLOTS)[name]
    return unpack_weight(
        packed_tensors(module, name), slot.format, slot.shape, slot.rows, slot.columns, slot.dtype
    )


@functools.cache
def _packed_class(original: type[nn.Module], names: tuple[str, ...]) -> type[nn.Module]:
    """Subclass of `original` in which the named parameters are dequantized when read."""
    members: dict[str, Any] = {"_mixq_original": original, "__module__": original.__module__}
    for name in names:
        members[name] = property(functools.partial(_dequantized, name=name))
    if issubclass(original, nn.RNNBase):
        members |= {
            "_flat_weights": property(_flat_weights, lambda _self, _value: None),
            "flatten_parameters": lambda _self: None,
            "_init_flat_weights": lambda _self: None,
            "_update_flat_weights": lambda _self: None,
        }
    return cast("type[nn.Module]", type(f"Packed{original.__name__}", (original,), members))


def _flat_weights(module: nn.RNNBase) -> list[Tensor | None]:
    """What torch's recurrent kernels are handed: all weights and biases in their order."""
    return [getattr(module, name, None) for name in module._flat_weights_names]
