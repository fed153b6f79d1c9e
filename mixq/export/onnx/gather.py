"""GatherBlockQuantized: rows of a packed table, dequantized after they are picked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mixq.export.onnx.nodes import MICROSOFT, Nodes
from mixq.export.onnx.operands import Operands

if TYPE_CHECKING:
    import onnx_ir as ir


def block_size(operands: Operands) -> int | None:
    """The block in which the operator can hold a table, or None.

    It takes powers of two from 16 on (onnxruntime 1.31,
    contrib_ops/cpu/quantization/gather_block_quantized.cc), and rows of whole bytes.
    """
    fmt, columns = operands.fmt, operands.columns
    if fmt.is_float or columns * fmt.bits % 8 or len(operands.unit.packed.shape) != 2:
        return None
    size = columns if fmt.group_size is None else min(fmt.group_size, columns)
    if size >= 16 and size & (size - 1) == 0:
        return size
    if size < columns and size % 16:
        return None
    block = 16
    while size % (2 * block) == 0:
        block *= 2
    return block if size % block == 0 or size == columns else None


def gather(operands: Operands, nodes: Nodes, indices: ir.Value) -> ir.Value:
    """The rows of the unit at `indices`, float32 (..., columns); `block_size` is not None."""
    block = block_size(operands)
    assert block is not None
    unit, bits = operands.unit, operands.fmt.bits
    inputs: list[Any] = [operands.byte_codes(), indices, operands.scales(block)]
    if unit.zeros is not None:
        inputs.append(operands.byte_zeros(block))
    attributes = {"bits": bits, "block_size": block, "gather_axis": 0, "quantize_axis": 1}
    rows = nodes.op("GatherBlockQuantized", inputs, attributes, domain=MICROSOFT)
    if unit.minimums is None:
        return rows  # type: ignore[no-any-return]
    # Without zero points a code is less 2^(bits-1); both that and the minimum are put back.
    lift = operands.lifts()
    picked = nodes.op("Gather", [lift, indices])
    size = operands.columns if operands.fmt.group_size is None else operands.fmt.group_size
    wide = nodes.op("Gather", [picked, operands.owners(size)], {"axis": -1})
    return nodes.op("Add", [rows, wide])  # type: ignore[no-any-return]
