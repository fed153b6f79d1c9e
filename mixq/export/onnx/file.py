"""ONNX files: written whole, with their tensors outside where one file cannot hold them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import onnx_ir as ir

LARGEST: Final = 2**31 - 2**20
"""Bytes: protobuf refuses messages of 2 GiB, and the graph itself takes some."""


def data_file(path: Path) -> Path:
    """Where the tensors of a file lie that is too large for one."""
    return path.with_name(f"{path.name}.data")


def tensor_bytes(model: ir.Model) -> int:
    """Bytes of all initializers."""
    values = model.graph.initializers.values()
    return sum(v.const_value.nbytes for v in values if v.const_value is not None)


def save(model: ir.Model, path: Path, *, largest: int = LARGEST) -> None:
    """Write a graph to `path`, and its tensors to `data_file(path)` where they are too many."""
    import onnx_ir as ir

    if tensor_bytes(model) > largest:
        ir.save(model, path, external_data=data_file(path).name)
    else:
        ir.save(model, path)
