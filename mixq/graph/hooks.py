"""Fallback trace by module hooks, for models that torch cannot dispatch under a mode.

Only modules that own weights are seen; what happens between them is lost, and said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from mixq.graph.dispatch import tensors_in
from mixq.graph.trace import Trace
from mixq.graph.units import WeightUnit
from mixq.graph.work import Work

LOST = (
    "only modules that own weights were seen, in the order of their calls: operations between "
    "them cost nothing, and branches look like a chain",
    "a weight of a module that is no torch layer is taken for a matrix product",
    "live memory is the largest input and output of one module, a lower bound",
)


def trace_modules(model: nn.Module, units: list[WeightUnit], run: Callable[[], object]) -> Trace:
    """Record the modules that `run()`, one forward pass of `model`, calls."""
    names = {name: unit for unit in units for name in (unit.name, *unit.aliases)}
    seen = Trace(work={unit.name: [] for unit in units})
    handles = []
    try:
        for path, module in model.named_modules():
            prefix = f"{path}." if path else ""
            found = (names.get(prefix + name) for name in _own(module))
            owned = [unit for unit in found if unit is not None]
            if owned and not isinstance(module, torch.jit.ScriptModule):  # refuses hooks
                handles.append(
                    module.register_forward_hook(_recorder(seen, path, owned), with_kwargs=True)
                )
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _own(module: nn.Module) -> list[str]:
    """Names of the parameters that calling this very module reads."""
    names = [name for name, _ in module.named_parameters(recurse=False)]
    for child_name, child in module.named_children():
        # Attention computes with its projection's weights, scripted code calls no hooks.
        silent = isinstance(module, nn.MultiheadAttention) and child_name == "out_proj"
        if silent or isinstance(child, torch.jit.ScriptModule):
            names += [f"{child_name}.{name}" for name, _ in child.named_parameters()]
    return names


def _recorder(
    seen: Trace, path: str, owned: list[WeightUnit]
) -> Callable[[nn.Module, Any, Any, Any], None]:
    def record(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        read, written = tensors_in((args, kwargs)), tensors_in(output)
        moved: dict[str, Any] = {"input_bytes": _bytes(read), "output_bytes": _bytes(written)}
        seen.peak_activation_bytes = max(seen.peak_activation_bytes, sum(moved.values()))
        shape = tuple(written[0].shape) if written else ()
        for unit in owned:
            part = (replace(_work(module, unit, read, written)), (unit.name,))
            before = list(seen.digraph.nodes)[-1:]
            seen.add(part, before, op=unit.module, module=path, shape=shape)

    return record


def _work(
    module: nn.Module,
    unit: WeightUnit,
    read: list[Tensor],
    written: list[Tensor],
) -> Work:
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        rows = read[0].numel() if read else 1
        return Work("gather", m=rows, n=unit.weights // unit.shape[0])
    groups = getattr(module, "groups", None)
    if isinstance(groups, int) and groups > 0:
        # As in mixq.graph.operations: a transposed convolution is counted on its input side.
        counted = read if isinstance(module, _ConvTransposeNd) else written
        pixels = counted[0].numel() // unit.rows if counted else 1
        return Work("conv", m=pixels, n=unit.rows // groups, k=unit.columns, groups=groups)
    rows = written[0].numel() // max(written[0].shape[-1], 1) if written else 1
    return Work("gemm", m=rows, n=unit.rows, k=unit.columns)


def _bytes(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
