"""MatMulNBits: a matrix product with packed weights, ONNX Runtime's fast path on CPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mixq.export.onnx.nodes import MICROSOFT, Nodes
from mixq.export.onnx.operands import Operands
from mixq.formats import Format

if TYPE_CHECKING:
    import onnx_ir as ir

BLOCKS: Final = (16, 32, 64, 128, 256)
"""That the operator takes (onnxruntime 1.31, contrib_ops/cpu/quantization/matmul_nbits.cc)."""
FAST_BLOCKS: Final = (128, 64, 32)
"""Those with an integer kernel at every width, the cheapest first."""
INT8_ACTIVATIONS: Final = 4
"""`accuracy_level`: activations are rounded to 8 bits, one range for a block of a row."""


def block_size(fmt: Format, columns: int) -> int | None:
    """The block in which MatMulNBits can hold a matrix, or None.

    A group that is no legal block is cut into several; its scale is repeated while the file is
    loaded. A row that is one group may be cut anywhere, its last block is filled up.
    """
    if fmt.is_float or (fmt.bits == 8 and fmt.grid == "affine"):
        return None
    size = columns if fmt.group_size is None else fmt.group_size
    if size in BLOCKS and size < columns:
        return size
    if size >= columns:
        whole = [block for block in FAST_BLOCKS if columns % block == 0]
        return whole[0] if whole else FAST_BLOCKS[-1]
    parts = [block for block in FAST_BLOCKS if size % block == 0]
    return parts[0] if parts else (16 if size % 16 == 0 else None)


def matmul(
    operands: Operands,
    nodes: Nodes,
    x: ir.Value,
    bias: ir.Value | None,
    *,
    block: int,
    accuracy_level: int,
) -> ir.Value:
    """The product x W^T + bias, with W the unit as a (rows, columns) matrix.

    Args:
        operands: of a unit whose `block_size` is not None.
        nodes: takes the node.
        x: float32 (..., columns).
        bias: float32 (rows,), or None.
        block: divides the unit's `block_size`.
        accuracy_level: as in `mixq.export.onnx.kernel`.
    """
    columns, rows, bits = operands.columns, operands.rows, operands.fmt.bits
    blocks = -(-columns // block)
    start = operands.start
    shape = start.constant([rows, blocks, block * bits // 8])
    codes = start.op("Reshape", [operands.byte_codes(block), shape])
    inputs: list[Any] = [x, codes, operands.scales(block)]
    if operands.unit.minimums is not None:
        zeros: Any = operands.float_zeros(block)
    elif operands.unit.zeros is not None:
        zeros = operands.byte_zeros(block)
    else:
        zeros = None
    inputs += [zeros, None, bias]
    while inputs[-1] is None:
        inputs.pop()
    attributes = {
        "K": columns, "N": rows, "bits": bits, "block_size": block,
        "accuracy_level": accuracy_level,
    }  # fmt: skip
    return nodes.op("MatMulNBits", inputs, attributes, domain=MICROSOFT)  # type: ignore[no-any-return]
