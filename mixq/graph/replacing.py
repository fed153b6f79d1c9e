"""Other tensors in place of a model's own, for one call; the model itself is never written to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mixq.batch import Batch
from mixq.errors import ModelError


def check_replaceable(model: nn.Module) -> None:
    """Refuse a model whose weights cannot be replaced for a call.

    Raises:
        ModelError: if it is TorchScript.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            f"model {getattr(model, 'original_name', '')} is TorchScript, whose weights cannot be "
            "replaced for a call; pass the module that it was made from"
        )


def slots(model: nn.Module) -> frozenset[str]:
    """Every place that holds a parameter or buffer, under one name each.

    A module used twice has one slot under two names: replacing it twice would put the replacement
    back as if it were the original. Tied tensors have a slot each.
    """
    return frozenset(
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        for named in (module.named_parameters, module.named_buffers)
        for name, _ in named(recurse=False, remove_duplicate=False)
    )


def call_with(model: nn.Module, tensors: Mapping[str, Tensor], batch: Batch) -> object:
    """The output for `batch` with `tensors` in place, by the `slots` that they take.

    Gradients and mode are left to the caller, and so are errors of the model.
    """
    args, kwargs = ((), batch) if isinstance(batch, dict) else (batch, None)
    # Ties are spelled out by the caller; finding them again costs a walk over the model.
    return functional_call(model, dict(tensors), args, kwargs, tie_weights=False)


@contextlib.contextmanager
def recurrent_weights_put_back(model: nn.Module) -> Iterator[None]:
    """Recurrent modules keep a list of their weights, which torch renews in forward only."""
    try:
        yield
    finally:
        for module in model.modules():
            if isinstance(module, nn.RNNBase):
                module._update_flat_weights()
