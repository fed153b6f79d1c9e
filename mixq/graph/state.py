"""What a model stores: its parameters and persistent buffers, shared storage counted once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixq.errors import ModelError


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One piece of storage and all the names that the model has for it.

    Attributes:
        names: as in `state_dict()`, in its order; the first is the canonical one.
        tensor: the parameter or buffer itself, not a copy.
        is_parameter: whether it is trained.
    """

    names: tuple[str, ...]
    tensor: Tensor
    is_parameter: bool

    @property
    def stored_bytes(self) -> int:
        """Bytes as the model holds it."""
        return self.tensor.numel() * self.tensor.element_size()

    @property
    def original_bytes(self) -> int:
        """Bytes with floating-point numbers in 32 bits, integers at their own size."""
        return self.tensor.numel() * 4 if self.tensor.is_floating_point() else self.stored_bytes


def stored_tensors(model: nn.Module) -> list[StoredTensor]:
    """Everything that `model` stores, in the order of `state_dict()`.

    Names that show the same elements of the same storage are one tensor. Non-persistent
    buffers and extra state that is no tensor are left out, as `state_dict()` does or torch
    cannot say their bytes.

    Raises:
        ModelError: if a tensor has no data (meta device) or is sparse.
    """
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    names: dict[tuple[object, ...], list[str]] = {}
    tensors: dict[tuple[object, ...], Tensor] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor):
            continue
        if value.is_meta or value.layout is not torch.strided:
            raise ModelError(
                f"{name} has no plain data (device {value.device}, layout {value.layout}); "
                "load the weights into ordinary dense tensors first"
            )
        key = _storage_key(name, value)
        names.setdefault(key, []).append(name)
        tensors.setdefault(key, value)
    return [
        StoredTensor(tuple(aliases), tensors[key], aliases[0] in parameters)
        for key, aliases in names.items()
    ]


def fingerprint(model: nn.Module) -> str:
    """`sha256:...` over the names, shapes, dtypes and bytes of everything stored.

    The same weights give the same fingerprint in any process and on any machine.
    """
    digest = hashlib.sha256()
    for stored in sorted(stored_tensors(model), key=lambda item: item.names):
        tensor = stored.tensor.detach().cpu().contiguous()
        head = f"{stored.names}|{tuple(tensor.shape)}|{tensor.dtype}|"
        digest.update(head.encode())
        digest.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
    return f"sha256:{digest.hexdigest()}"


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
