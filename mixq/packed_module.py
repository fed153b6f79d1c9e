"""Modules that hold packed weights: the parameter becomes a property that dequantizes.

A module whose parameter is replaced changes its class to a subclass with a property of the
parameter's name, so that every reader of `module.weight` sees the dequantized weights, whether it
is the module's own forward, a parent that reaches in (MultiheadAttention), or a tied head. The
packed tensors are buffers of the same module, `weight__codes`, `weight__scales` and so on (see
`PackedWeight.tensors`), so that `state_dict()` and `.to()` see them and no new children appear.

Weights are dequantized at every access and not kept: small in memory, slower than 32 bits. Where
time matters more than memory, `weights_kept` keeps them for a while.
`.to(dtype)` changes the dtype of the dequantized weights and never what is stored.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from mixq.activations.wiring import granularity, input_quantizer, replaced_input
from mixq.formats import Format
from mixq.quantize.weights import PackedWeight

_SLOTS = "_mixq_slots"
_KEPT = "_mixq_kept"
_PARTS = ("codes", "scales", "zeros", "minimums", "half", "input_scale", "input_zero")


@dataclass(frozen=True, slots=True)
class Slot:
    """What a packed parameter's buffers mean; see `PackedWeight`."""

    format: Format
    shape: tuple[int, ...]
    rows: int
    columns: int
    dtype: torch.dtype

    def filled(self, tensors: dict[str, Tensor]) -> PackedWeight:
        """The packed weights that these tensors are."""
        return PackedWeight(self.format, self.shape, self.rows, self.columns, self.dtype, tensors)


def attach(module: nn.Module, name: str, packed: PackedWeight) -> None:
    """Replace the parameter `name` of `module`, in place, by its packed weights."""
    del module._parameters[name]
    for part, tensor in packed.tensors.items():
        module.register_buffer(buffer_name(name, part), tensor)
    slots = {
        **_slots(module),
        name: Slot(packed.format, packed.shape, packed.rows, packed.columns, packed.dtype),
    }
    module.__dict__[_SLOTS] = slots
    if isinstance(module, nn.RNNBase):
        # The list would keep the 32-bit weights alive; a property takes its place.
        module.__dict__.pop("_flat_weights", None)
        module.__dict__["_flat_weight_refs"] = []
    _set_class(module, _packed_class(_original_class(module), tuple(slots)))
    if packed.format.activation != "none":
        module.register_forward_pre_hook(_round_input, with_kwargs=True)


def buffer_name(parameter: str, part: str) -> str:
    """Name of the buffer that holds one part of a packed parameter."""
    return f"{parameter}__{part}"


def packed_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, Slot]]:
    """(full name, module, parameter name, slot) of every packed parameter, in module order."""
    for path, module in model.named_modules(remove_duplicate=True):
        for name, slot in _slots(module).items():
            yield (f"{path}.{name}" if path else name), module, name, slot


def packed_tensors(module: nn.Module, name: str) -> dict[str, Tensor]:
    """The stored tensors of one packed parameter by part."""
    buffers = module._buffers
    found = {part: buffers.get(buffer_name(name, part)) for part in _PARTS}
    return {part: tensor for part, tensor in found.items() if tensor is not None}


@contextmanager
def weights_kept(model: nn.Module) -> Iterator[None]:
    """Dequantize every packed weight once and keep it meanwhile.

    Outputs are the same, bit for bit; memory is that of 32 bits. The model may not be moved or
    changed in the meantime.
    """
    found = list(packed_parameters(model))
    made: dict[int, Tensor] = {}
    try:
        for _, module, name, _ in found:
            # Tied weights have their stored tensors in common.
            key = next(iter(packed_tensors(module, name).values())).data_ptr()
            if key not in made:
                made[key] = getattr(module, name)
            module.__dict__.setdefault(_KEPT, {})[name] = made[key]
        yield
    finally:
        for _, module, _, _ in found:
            module.__dict__.pop(_KEPT, None)


def _round_input(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Forward pre-hook: the input goes through the quantizer of the module's packed weights."""
    for name, slot in _slots(module).items():
        if slot.format.activation != "none":
            per = granularity(slot.format, module)
            quantizer = input_quantizer(slot.format, packed_tensors(module, name), per=per)
            args, kwargs = replaced_input(module, args, kwargs, quantizer)
    return args, kwargs


class _Packed(nn.Module):
    """What every module with packed parameters does besides computing."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the stored tensors as `.to()`, `.half()` and others ask, in their own dtypes.

        They are changed in place, as torch does with parameters, so that tied ones stay tied.
        """
        keys = [buffer_name(n, part) for n in _slots(self) for part in packed_tensors(self, n)]
        before = {key: self._buffers[key] for key in keys}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for key, old in before.items():
            new = self._buffers[key]
            if old is None or new is None or new is old:
                continue
            if new.dtype != old.dtype:
                new = old.to(new.device)
            if _same_kind(old, new):
                old.data = new
                new = old
            self._buffers[key] = new
        self.__dict__[_SLOTS] = {
            name: replace(slot, dtype=fn(torch.empty(0, dtype=slot.dtype)).dtype)
            for name, slot in _slots(self).items()
        }
        return self


class _PackedRecurrent(_Packed):
    """LSTM, GRU and RNN hand torch a list of all weights; here it is made when it is read."""

    @property
    def _flat_weights(self) -> list[Tensor | None]:
        names: list[str] = self.__dict__["_flat_weights_names"]
        return [getattr(self, name, None) for name in names]

    @_flat_weights.setter
    def _flat_weights(self, _weights: object) -> None:
        """RNNBase assigns the list in several places; the property is always up to date."""

    def _update_flat_weights(self) -> None:
        """Nothing to do, and nothing in the two below: no list is kept."""

    def _init_flat_weights(self) -> None: ...

    def flatten_parameters(self) -> None: ...


class _PackedGraph(_Packed):
    """A GraphModule copies itself by looking up the parameters that its graph names."""

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        """Deep copy with parameters that take no memory in place of the packed ones.

        `self` is a plain GraphModule while it is copied: its dictionary may refer to it.
        """
        held, packed_class, slots = self.__dict__, type(self), _slots(self)
        tensors = {name: packed_tensors(self, name) for name in slots}
        keys = {buffer_name(name, part) for name in slots for part in tensors[name]}
        places = {
            name: nn.Parameter(torch.empty(slot.shape, device="meta"))
            for name, slot in slots.items()
        }
        plain = {key: value for key, value in held.items() if key != _SLOTS}
        plain["_parameters"] = {**self._parameters, **places}
        plain["_buffers"] = {k: value for k, value in self._buffers.items() if k not in keys}
        object.__setattr__(self, "__dict__", plain)
        _set_class(self, _original_class(self))
        try:
            copied = copy.deepcopy(self, memo)
        finally:
            _set_class(self, packed_class)
            object.__setattr__(self, "__dict__", held)
        for name, slot in slots.items():
            parts = copy.deepcopy(tensors[name], memo)
            attach(copied, name, slot.filled(parts))
        return copied


def _same_kind(old: Tensor, new: Tensor) -> bool:
    """Whether `old` can take the data of `new`; one that moves to the meta device cannot."""
    check = torch._has_compatible_shallow_copy_type  # pyright: ignore[reportPrivateImportUsage]
    return bool(check(old, new))


def _set_class(module: nn.Module, to: type[nn.Module]) -> None:
    # What `module.__class__ = to` does, which type checkers forbid.
    object.__setattr__(module, "__class__", to)


def _slots(module: nn.Module) -> dict[str, Slot]:
    # Not getattr: a wrapper that passes attributes on would show the slots of what it wraps.
    slots: dict[str, Slot] = module.__dict__.get(_SLOTS, {})
    return slots


def _original_class(module: nn.Module) -> type[nn.Module]:
    original: type[nn.Module] = getattr(type(module), "_mixq_original", type(module))
    return original


def _packed_class(original: type[nn.Module], names: tuple[str, ...]) -> type[nn.Module]:
    """Subclass of `original` in which the named parameters are dequantized when read.

    Modules of one class share one subclass. It is looked up among the subclasses, which Python
    holds weakly, because some classes (of a GraphModule) live no longer than their module.
    """
    for known in original.__subclasses__():
        if known.__dict__.get("_mixq_names") == names:
            return known
    members: dict[str, Any] = {
        "_mixq_original": original,
        "_mixq_names": names,
        "__module__": original.__module__,
        "__doc__": original.__doc__,
    }
    members |= {name: property(_reader(name)) for name in names}
    base: type[nn.Module] = _Packed
    if issubclass(original, nn.RNNBase):
        base = _PackedRecurrent
    elif issubclass(original, GraphModule):
        base = _PackedGraph
    return cast("type[nn.Module]", type(f"Packed{original.__name__}", (base, original), members))


def _reader(name: str) -> Callable[[nn.Module], Tensor]:
    def dequantized(module: nn.Module) -> Tensor:
        kept: dict[str, Tensor] | None = module.__dict__.get(_KEPT)
        if kept is not None and name in kept:
            return kept[name]
        return _slots(module)[name].filled(packed_tensors(module, name)).unpacked()

    return dequantized
