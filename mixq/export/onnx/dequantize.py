"""DequantizeLinear: any unit as floats, from packed codes, in front of whatever reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mixq.export.onnx.nodes import Nodes
from mixq.export.onnx.operands import Operands

if TYPE_CHECKING:
    import onnx_ir as ir

_FLOAT = 1  # onnx.TensorProto.FLOAT


def dequantized(operands: Operands, nodes: Nodes) -> ir.Value:
    """The unit's float32 weights in the shape of the parameter, computed on every pass.

    ONNX Runtime does not fold DequantizeLinear, so the weights stay packed in memory. Groups are
    blocks of the second axis; the operator takes a shorter last one.
    """
    unit, fmt = operands.unit, operands.fmt
    if unit.is_float:
        return operands.floats()
    signed = unit.zeros is None and unit.minimums is None
    inputs: list[Any] = [operands.typed_codes(signed=signed), operands.scales()]
    if unit.zeros is not None:
        inputs.append(operands.typed_zeros())
    groups = fmt.groups_per_row(operands.columns)
    size = operands.columns if fmt.group_size is None else fmt.group_size
    matrix = nodes.op("DequantizeLinear", inputs, {"axis": 1, "block_size": size})
    if unit.minimums is not None:
        matrix = _lifted(operands, nodes, matrix, groups, size)
    if unit.packed.shape == (operands.rows, operands.columns):
        return matrix  # type: ignore[no-any-return]
    return nodes.op("Reshape", [matrix, nodes.constant(unit.packed.shape)])  # type: ignore[no-any-return]


def folded(operands: Operands) -> ir.Value:
    """The same weights by nodes that ONNX Runtime folds while it loads the file.

    Small on disk and as fast as 32 bits, with 32 bits in memory.
    """
    unit, fmt, start = operands.unit, operands.fmt, operands.start
    if unit.is_float:
        return operands.floats()
    size = operands.columns if fmt.group_size is None else fmt.group_size

    def wide(values: Any) -> Any:
        if fmt.groups_per_row(operands.columns) == 1:
            return values
        return start.op("Gather", [values, operands.owners(size)], {"axis": 1})

    signed = unit.zeros is None and unit.minimums is None
    matrix = start.op("Cast", [operands.typed_codes(signed=signed)], {"to": _FLOAT})
    if unit.zeros is not None:
        zeros = start.op("Cast", [operands.typed_zeros()], {"to": _FLOAT})
        matrix = start.op("Sub", [matrix, wide(zeros)])
    matrix = start.op("Mul", [matrix, wide(operands.scales())])
    if unit.minimums is not None:
        matrix = start.op("Add", [matrix, wide(operands.minimums())])
    shape = start.constant(unit.packed.shape)
    return start.op("Reshape", [matrix, shape])  # type: ignore[no-any-return]


def _lifted(operands: Operands, nodes: Nodes, matrix: Any, groups: int, size: int) -> Any:
    """The matrix with its groups' minimums added."""
    if groups == 1:
        return nodes.op("Add", [matrix, operands.minimums()])
    if groups * size == operands.columns:
        cut = nodes.op("Reshape", [matrix, nodes.constant([operands.rows, groups, size])])
        minimums = nodes.op("Unsqueeze", [operands.minimums(), nodes.constant([2])])
        lifted = nodes.op("Add", [cut, minimums])
        whole = nodes.constant([operands.rows, operands.columns])
        return nodes.op("Reshape", [lifted, whole])
    # A short last group: every column takes its group's minimum.
    wide = nodes.op("Gather", [operands.minimums(), operands.owners(size)], {"axis": 1})
    return nodes.op("Add", [matrix, wide])
