"""Integer products: inputs rounded to 8 bits, multiplied by integer weights in int32.

One scale per output channel and one range per input tensor, as `mixq.activations` measured it;
sums of products are exact, so the same integers give the same numbers up to float rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mixq.export.onnx.nodes import Nodes
from mixq.export.onnx.operands import Operands

if TYPE_CHECKING:
    import onnx_ir as ir

_FLOAT, _INT8 = 1, 3  # onnx.TensorProto.DataType


def takes(operands: Operands) -> bool:
    """Whether a unit rounds its inputs and has one scale per row, without zero points."""
    fmt, unit = operands.fmt, operands.unit
    one = fmt.groups_per_row(operands.columns) == 1 and unit.zeros is None
    return fmt.activation != "none" and one and unit.minimums is None


def rounded(operands: Operands, nodes: Nodes, x: ir.Value) -> tuple[Any, Any, Any]:
    """The input as uint8, its scale and its zero point."""
    if operands.fmt.activation == "dynamic":
        found = nodes.op("DynamicQuantizeLinear", [x], outputs=3)
        return found[0], found[1], found[2]
    stored = operands.unit.packed.tensors
    scale = operands.add("input_scale", stored["input_scale"].numpy()[0])
    zero = operands.add("input_zero", stored["input_zero"].numpy()[0])
    return nodes.op("QuantizeLinear", [x, scale, zero]), scale, zero


def rounded_floats(operands: Operands, nodes: Nodes, x: ir.Value) -> Any:
    """The input of a kernel that takes floats, rounded where the format asks for it.

    A dynamic range for each block of a row is MatMulNBits's own, so nothing is added for it.
    """
    fmt = operands.fmt
    matrix = len(operands.unit.packed.shape) == 2
    if fmt.activation == "none" or (fmt.activation == "dynamic" and fmt.group_size and matrix):
        return x
    codes, scale, zero = rounded(operands, nodes, x)
    # Not DequantizeLinear: behind one, ONNX Runtime rounds float weights to 8 bits by itself
    # (1.31, WeightBiasQuantization; EfficientNet-Lite0's outputs were off by .56 of their size).
    floats = [nodes.op("Cast", [codes_], {"to": _FLOAT}) for codes_ in (codes, zero)]
    return nodes.op("Mul", [nodes.op("Sub", floats), scale])


def matmul(operands: Operands, nodes: Nodes, x: ir.Value, bias: ir.Value | None) -> Any:
    """X W^T + bias; ONNX Runtime fuses the nodes into one integer kernel."""
    codes, scale, zero = rounded(operands, nodes, x)
    weight = operands.start.op("Transpose", [_int8(operands)], {"perm": [1, 0]})
    product = nodes.op("MatMulInteger", [codes, weight, zero])
    row = operands.start.op("Reshape", [operands.scales(), operands.start.constant([-1])])
    result = _scaled(nodes, product, scale, row)
    return result if bias is None else nodes.op("Add", [result, bias])


def _int8(operands: Operands) -> Any:
    codes = operands.typed_codes(signed=True)
    if operands.fmt.bits == 8:
        return codes
    return operands.start.op("Cast", [codes], {"to": _INT8})


def _scaled(nodes: Nodes, product: Any, scale: Any, row: Any) -> Any:
    floats = nodes.op("Cast", [product], {"to": _FLOAT})
    return nodes.op("Mul", [floats, nodes.op("Mul", [scale, row])])
