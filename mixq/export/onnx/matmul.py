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
    if fmt.is_float:
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
    zeros = None if operands.unit.zeros is None else operands.byte_zeros(block)
    inputs += [zeros, None, bias]
    while inputs[-1] is None:
        inputs.pop()
    attributes = {
        "K": columns, "N": rows, "bits": bits, "block_size": block,
        "accuracy_level": accuracy_level,
    }  # fmt: skip
    product = nodes.op("MatMulNBits", inputs, attributes, domain=MICROSOFT)
    if operands.unit.minimums is None:
        return product  # type: ignore[no-any-return]
    # Float zero points have no fast kernel. The product takes each code less 2^(bits-1) times its
    # scale, and what is missing is the same for a whole group: it meets the sum of its inputs.
    sums = nodes.op("MatMul", [x, operands.membership()])
    lifts = start.op("Transpose", [operands.lifts()], {"perm": [1, 0]})
    return nodes.op("Add", [product, nodes.op("MatMul", [sums, lifts])])  # type: ignore[no-any-return]
