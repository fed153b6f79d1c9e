"""ONNX files: written whole, with their tensors outside where one file cannot hold them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import onnx_ir as ir

LARGEST: Final = 2**31 - 2**24
"""Bytes: protobuf refuses messages of 2 GiB, and the graph itself takes some."""


def data_file(path: Path) -> Path:
    """Where the tensors of a file lie that is too large for one."""
    return path.with_name(f"{path.name}.data")


def tensor_bytes(model: ir.Model) -> int:
    """Bytes of all initializers."""
    values = model.graph.initializers.values()
    return sum(v.const_value.nbytes for v in values if v.const_value is not None)


def save(model: ir.Model, path: Path, *, largest: int = LARGEST) -> None:
    """Write a graph to `path`, and its tensors to `data_file(path)` where they are too many.

    Shapes of what lies between two nodes are left out, and where torch says that a node came from:
    every reader infers the former, and in a small model both took more room than the weights.
    """
    import onnx_ir as ir

    graph = model.graph
    model.metadata_props.clear()
    graph.metadata_props.clear()
    kept = {id(value) for value in (*graph.inputs, *graph.outputs)}
    between = [value for node in graph for value in node.outputs]
    for value in (*between, *graph.initializers.values()):
        value.metadata_props.clear()
        if id(value) not in kept:
            value.shape, value.type = None, None
    if tensor_bytes(model) > largest:
        ir.save(model, path, external_data=data_file(path).name)
    else:
        ir.save(model, path)
