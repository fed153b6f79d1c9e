"""Which units meet activations that can be rounded, and where a module's input is in its call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from mixq.errors import ModelError
from mixq.graph.units import WeightUnit


def quantizable_inputs(
    model: nn.Module, units: Iterable[WeightUnit]
) -> dict[str, tuple[str, ...]]:
    """The modules whose input is what meets a unit's weights, by name of the unit.

    A unit qualifies if it is the `weight` of Linear, Conv* or ConvTranspose* modules, of
    subclasses of these, or of the Conv1D of Hugging Face's transformers, which all have one tensor
    input. A table that an Embedding shares with such a module qualifies through the latter.
    What does not: embeddings by themselves, recurrent and bilinear layers, `in_proj_weight` and
    `out_proj` of MultiheadAttention (which computes without calling it), parametrized weights,
    TorchScript, and programs from torch.export, which have no such modules.

    Returns:
        Paths of modules as in `named_modules()`, one for a module that has several.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    attention = {
        child
        for module in modules.values()
        if isinstance(module, nn.MultiheadAttention)
        for child in module.modules()
    }
    found: dict[str, tuple[str, ...]] = {}
    for unit in units:
        paths: dict[nn.Module, str] = {}
        others = False
        for name in (unit.name, *unit.aliases):
            path, _, parameter = name.rpartition(".")
            owner = modules[path]
            if parameter == "weight" and _has_one_input(owner) and owner not in attention:
                paths.setdefault(owner, path)
            elif not isinstance(owner, nn.Embedding | nn.EmbeddingBag):
                others = True
        if paths and not others:
            found[unit.name] = tuple(paths.values())
    return found


def input_of(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[int | str, Tensor]:
    """Where the input is in a call, and what: the first tensor, or the only one by keyword.

    Raises:
        ModelError: if there is no such tensor, or it does not hold floating-point numbers.
    """
    named = [(name, value) for name, value in kwargs.items() if isinstance(value, Tensor)]
    for index, value in enumerate(args):
        if isinstance(value, Tensor):
            return index, _checked(module, value)
    if len(named) != 1:
        raise ModelError(
            f"a {type(module).__name__} was called with {len(named)} tensors by keyword and none "
            "by position, but only one input can be quantized; leave its activations as they are"
        )
    name, value = named[0]
    return name, _checked(module, value)


def _checked(module: nn.Module, value: Tensor) -> Tensor:
    if not value.is_floating_point():
        raise ModelError(
            f"a {type(module).__name__} was called with {value.dtype}, but only floating-point "
            "activations can be quantized; leave its activations as they are"
        )
    return value


def _has_one_input(module: nn.Module) -> bool:
    if isinstance(module, torch.jit.ScriptModule):  # refuses hooks
        return False
    return isinstance(module, nn.Linear | _ConvNd) or any(
        # By name, so that transformers need not be installed.
        (base.__module__, base.__name__) == ("transformers.pytorch_utils", "Conv1D")
        for base in type(module).__mro__
    )
