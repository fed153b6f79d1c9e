"""Weights as DequantizeLinear nodes of standard ONNX, with float32 scales beside the integers."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from mixq.export.onnx.nodes import Nodes, initializer
from mixq.export.source import Unit
from mixq.formats import packed_bytes

_FLOAT = 1  # onnx.TensorProto.FLOAT


def dequantized(graph: Any, nodes: Nodes, unit: Unit, *, transposed: bool = False) -> Any:
    """The unit's weights, float32 in the parameter's shape, or its transposed matrix.

    Standard runtimes read scales as constants of the type that they compute in, so scales are
    float32; one scale per row is an axis, several are blocks.

    Args:
        graph: that holds the initializers.
        nodes: takes the nodes.
        unit: at 16, 8 or 4 bits, without float minimums.
        transposed: (columns, rows), as the second operand of a product.
    """
    fmt, shape = unit.packed.format, unit.packed.shape
    if fmt.is_float:
        return _half(graph, nodes, unit, transposed=transposed)
    codes, zeros = _integers(unit)
    scales = unit.scales.astype(np.float32)
    one = scales.shape[1] == 1
    whole = one and shape[0] == unit.packed.rows  # else rows run over several dimensions
    if one:
        scales, zeros = scales[:, 0], None if zeros is None else zeros[:, 0]
        codes = codes.T if transposed else codes.reshape(shape if whole else codes.shape)
        attributes: dict[str, Any] = {"axis": 1 if transposed else 0}
    else:
        if transposed:
            codes, scales = codes.T, scales.T
            zeros = None if zeros is None else zeros.T
        attributes = {"axis": 0 if transposed else 1, "block_size": fmt.group_size}
    inputs = [
        initializer(graph, f"{unit.name}.{part}", array)
        for part, array in (("codes", codes), ("scales", scales), ("zeros", zeros))
        if array is not None
    ]
    floats = nodes.op("DequantizeLinear", inputs, attributes)
    if whole or transposed or shape == (unit.packed.rows, unit.packed.columns):
        return floats
    return nodes.op("Reshape", [floats, nodes.constant(shape)])


def stored_bytes(unit: Unit) -> int:
    """Bytes that `dequantized` stores."""
    packed, fmt = unit.packed, unit.packed.format
    if fmt.is_float:
        return packed.stored_bytes
    groups = packed.rows * fmt.groups_per_row(packed.columns)
    zeros = packed_bytes(groups, fmt.bits) if unit.zeros is not None else 0
    return packed_bytes(packed.rows * packed.columns, fmt.bits) + 4 * groups + zeros


def _integers(unit: Unit) -> tuple[Any, Any]:
    """Codes (rows, columns) and zero points (rows, groups) in ONNX's integer types."""
    bits = unit.packed.format.bits
    if unit.zeros is not None:
        kind: Any = np.uint8 if bits == 8 else ml_dtypes.uint4
        return unit.codes.astype(kind), unit.zeros.astype(kind)
    kind = np.int8 if bits == 8 else ml_dtypes.int4
    signed = unit.codes.astype(np.int16) - (1 << (bits - 1))
    return signed.astype(np.int8).astype(kind), None


def _half(graph: Any, nodes: Nodes, unit: Unit, *, transposed: bool) -> Any:
    from mixq.export.onnx.operands import half_floats

    value = initializer(graph, f"{unit.name}.half", half_floats(unit))
    floats = nodes.op("Cast", [value], {"to": _FLOAT})
    return nodes.op("Transpose", [floats], {"perm": [1, 0]}) if transposed else floats
