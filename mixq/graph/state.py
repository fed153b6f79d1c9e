"""What a model stores: its parameters and persistent buffers, shared storage counted once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from mixq.errors import ModelError
from mixq.graph.windows import ALONE, Window, windows


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One piece of storage and all the names that the model has for it.

    Attributes:
        names: as in `state_dict()`, in its order; the first is the canonical one.
        tensor: the parameter or buffer itself, not a copy.
        is_parameter: whether it is trained.
        window: how it overlaps others that show the same storage in another shape.
    """

    names: tuple[str, ...]
    tensor: Tensor
    is_parameter: bool
    window: Window = ALONE

    @property
    def elements(self) -> int:
        """Number of elements, less those that an earlier tensor of the model shows too."""
        return self.tensor.numel() - self.window.repeated

    @property
    def stored_bytes(self) -> int:
        """Bytes that an artifact takes for it: a window is stored in full, as files have none."""
        return self.tensor.numel() * self.tensor.element_size()

    @property
    def original_bytes(self) -> int:
        """Bytes with floating-point numbers in 32 bits, integers at their own size."""
        width = 4 if self.tensor.is_floating_point() else self.tensor.element_size()
        return self.elements * width


def stored_tensors(model: nn.Module) -> list[StoredTensor]:
    """Everything that `model` stores, in the order of `state_dict()`.

    Names that show the same elements of the same storage in one shape are one tensor.
    Non-persistent buffers and extra state that is no tensor are left out, as `state_dict()` does
    or torch cannot say their bytes.

    Raises:
        ModelError: if a tensor has no plain data (meta device, lazy, sparse, already quantized).
    """
    names: dict[tuple[object, ...], list[str]] = {}
    tensors: dict[tuple[object, ...], Tensor] = {}
    parameters: set[str] = set()
    for name, value, is_parameter in entries(model):
        _check(name, value)
        key = _storage_key(name, value)
        names.setdefault(key, []).append(name)
        tensors.setdefault(key, value)
        if is_parameter:
            parameters.add(name)
    return [
        StoredTensor(tuple(aliases), tensors[key], aliases[0] in parameters, window)
        for (key, aliases), window in zip(
            names.items(), windows(list(tensors.values())), strict=True
        )
    ]


def fingerprint(model: nn.Module) -> str:
    """`sha256:...` over the names, shapes, dtypes and bytes of everything stored.

    The same weights give the same fingerprint in any process and on any machine, in whatever
    order the modules were registered.
    """
    return digest_of(
        sorted((tuple(sorted(item.names)), item.tensor) for item in stored_tensors(model))
    )


def digest_of(tensors: Iterable[tuple[tuple[str, ...], Tensor]]) -> str:
    """The fingerprint of stored tensors: the sorted names of each with it, sorted by them."""
    digest = hashlib.sha256()
    for names, tensor in tensors:
        digest.update(f"{names}|{tuple(tensor.shape)}|{tensor.dtype}|".encode())
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(plain.view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"


def entries(model: nn.Module) -> Iterator[tuple[str, Tensor, bool]]:
    """Name, tensor and whether it is a parameter, of all that `state_dict()` lists.

    Walked by hand, because hooks may make `state_dict()` rename tensors or return copies.
    """
    for path, module in model.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            yield prefix + name, parameter, True
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
            if name not in module._non_persistent_buffers_set:
                yield prefix + name, buffer, False


def _check(name: str, tensor: Tensor) -> None:
    if is_lazy(tensor):
        raise ModelError(f"{name} is not initialized; run the model once before quantizing it")
    if tensor.is_meta or tensor.layout is not torch.strided:
        raise ModelError(
            f"{name} has no plain data (device {tensor.device}, layout {tensor.layout}); "
            "load the weights into ordinary dense tensors first"
        )
    if is_traceable_wrapper_subclass(tensor):
        raise ModelError(
            f"{name} is a {type(tensor).__name__}, but only ordinary tensors can be quantized; "
            "pass the model before it was quantized or distributed"
        )


def _storage_key(name: str, tensor: Tensor) -> tuple[object, ...]:
    if tensor.numel() == 0:  # empty tensors all have address 0 and share nothing
        return (name,)
    return (
        str(tensor.device),
        tensor.data_ptr(),
        tensor.dtype,
        tuple(tensor.shape),
        tensor.stride(),
    )
