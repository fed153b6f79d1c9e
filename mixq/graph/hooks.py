"""Fallback trace by module hooks, for models that torch cannot dispatch under a mode.

Only modules that own weights are seen; what happens between them is lost, and said.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mixq.graph.trace import Trace
from mixq.graph.units import WeightUnit
from mixq.graph.work import Work

LOST = (
    "only modules that own weights were seen, in the order of their calls: operations between "
    "them cost nothing, and branches look like a chain",
    "live memory is the largest input and output of one module, a lower bound",
)


def trace_modules(model: nn.Module, units: list[WeightUnit], run: Callable[[], object]) -> Trace:
    """Record the modules that `run()`, one forward pass of `model`, calls."""
    names = {name: unit for unit in units for name in (unit.name, *unit.aliases)}
    seen = Trace(work={unit.name: [] for unit in units})
    handles = []
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        owned = [
            names[prefix + name]
            for name, _ in module.named_parameters(recurse=False)
            if prefix + name in names
        ]
        if owned:
            handles.append(module.register_forward_hook(_recorder(seen, path, owned)))
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _recorder(
    seen: Trace, path: str, owned: list[WeightUnit]
) -> Callable[[nn.Module, Any, Any], None]:
    def record(module: nn.Module, args: Any, output: Any) -> None:
        read = _bytes(args)
        written = _bytes(output)
        seen.peak_activation_bytes = max(seen.peak_activation_bytes, read + written)
        tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        rows = tensors[0].numel() // max(tensors[0].shape[-1], 1) if tensors else 1
        for unit in owned:
            node = f"{seen.digraph.number_of_nodes():05d}"
            work = _work(module, unit, rows, tensors, read, written)
            shape = tuple(tensors[0].shape) if tensors else ()
            before = list(seen.digraph.nodes)[-1:]
            seen.digraph.add_node(
                node, work=work, units=(unit.name,), op=unit.module, module=path, shape=shape
            )
            seen.digraph.add_edges_from((source, node) for source in before)
            seen.work[unit.name].append(work)

    return record


def _work(
    module: nn.Module,
    unit: WeightUnit,
    rows: int,
    outputs: list[Tensor],
    read: int,
    written: int,
) -> Work:
    moved = {"input_bytes": read, "output_bytes": written}
    if isinstance(module, nn.Embedding):
        return Work("gather", m=rows, n=unit.columns, **moved)
    groups = getattr(module, "groups", None)
    if isinstance(groups, int) and outputs:
        pixels = outputs[0].numel() // max(unit.rows, 1)
        return Work("conv", m=pixels, n=unit.rows // groups, k=unit.columns, groups=groups, **moved)
    return Work("gemm", m=rows, n=unit.rows, k=unit.columns, **moved)


def _bytes(tree: object) -> int:
    return sum(
        leaf.numel() * leaf.element_size()
        for leaf in tree_leaves(tree)
        if isinstance(leaf, Tensor)
    )
