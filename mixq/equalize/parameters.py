"""Parameters: which of the model's stored tensors an operation reads, and how often."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from mixq.graph.state import StoredTensor, stored_tensors

WIDE = (torch.float32, torch.float64)
"""Types in which a factor of any size costs less than 1e-5 of rounding."""


@dataclass(frozen=True, slots=True)
class _Item:
    stored: StoredTensor
    first: int
    last: int


class Parameters:
    """What a model stores, by memory, and what a running pass read of it."""

    def __init__(self, model: nn.Module) -> None:
        self._items: dict[int, list[_Item]] = {}
        self._reads: Counter[str] = Counter()
        self._barred: dict[str, str] = {}
        for item in stored_tensors(model):
            if item.tensor.numel():
                storage = item.tensor.untyped_storage().data_ptr()
                self._items.setdefault(storage, []).append(_Item(item, *_extent(item.tensor)))
            cause = _bar(item, model)
            if cause is not None:
                self._barred[item.names[0]] = cause

    def read(self, tensors: list[Tensor]) -> None:
        """Note that one operation reads these tensors."""
        self._reads.update({name for tensor in tensors for name in self._names(tensor)})

    def show(self, tensors: list[Tensor]) -> None:
        """Note that these tensors leave the model."""
        for tensor in tensors:
            for name in self._names(tensor):
                self._barred.setdefault(name, "leaves the model")

    def whole(self, tensor: object) -> str | None:
        """Name of the parameter that `tensor` is, element by element; None for anything else."""
        if not isinstance(tensor, Tensor) or tensor.layout is not torch.strided:
            return None
        for item in self._items.get(tensor.untyped_storage().data_ptr(), []):
            own = item.stored.tensor
            if item.stored.is_parameter and (
                (own.shape, own.stride(), own.storage_offset(), own.dtype)
                == (tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype)
            ):
                return item.stored.names[0]
        return None

    def refusal(self, name: str) -> str | None:
        """Why this tensor must stay as it is; None if it may change."""
        if name in self._barred:
            return f"{name} {self._barred[name]}"
        if self._reads[name] != 1:
            return f"{name} is used {self._reads[name]} times"
        return None

    def _names(self, tensor: Tensor) -> list[str]:
        if tensor.layout is not torch.strided or not tensor.numel():
            return []
        items = self._items.get(tensor.untyped_storage().data_ptr())
        if items is None:
            return []
        first, last = _extent(tensor)
        return [item.stored.names[0] for item in items if item.first < last and first < item.last]


def _bar(item: StoredTensor, model: nn.Module) -> str | None:
    name = item.names[0]
    if len(item.names) > 1 or item.window.overlaps:
        return "shares its memory"
    if item.tensor.dtype not in WIDE:
        return f"is {str(item.tensor.dtype).removeprefix('torch.')}, not 32-bit"
    owner = model.get_submodule(name.rpartition(".")[0])
    if isinstance(owner, torch.jit.ScriptModule):
        return "belongs to a scripted module"
    if ".parametrizations." in f".{name}" or is_parametrized(owner):
        return "is parametrized"
    if owner._forward_hooks or owner._forward_pre_hooks:
        return "belongs to a module with hooks"
    return None


def _extent(tensor: Tensor) -> tuple[int, int]:
    """First and one past the last byte that the tensor touches in its storage."""
    size = tensor.element_size()
    first = int(tensor.storage_offset()) * size
    span = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return first, first + (int(span) + 1) * size
