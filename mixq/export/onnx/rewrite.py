"""Rewriting: nodes that read a unit's floats become nodes that read its packed codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from mixq.export.onnx import gather, integer, matmul
from mixq.export.onnx.dequantize import dequantized, folded
from mixq.export.onnx.kernel import Kernel, usual_kernel
from mixq.export.onnx.nodes import Nodes, replaced
from mixq.export.onnx.operands import Operands
from mixq.export.source import Unit

if TYPE_CHECKING:
    import onnx_ir as ir

Unpack: TypeAlias = Literal["call", "load"]
_FLOAT = 1  # onnx.TensorProto.FLOAT


@dataclass(frozen=True)
class Rewritten:
    """What became of a graph.

    Attributes:
        kernels: by unit, the operators that read it now.
        unit_bytes: by unit, the bytes of its initializers.
        rounds_activations: whether a kernel rounds activations to 8 bits.
    """

    kernels: dict[str, tuple[str, ...]]
    unit_bytes: dict[str, int]
    rounds_activations: bool


def rewrite(
    model: ir.Model,
    weights: Mapping[str, str],
    units: Mapping[str, Unit],
    chosen: Mapping[str, Kernel] | None = None,
    unpack: Unpack = "call",
) -> Rewritten:
    """Replace, in place, the float initializers of units by their packed operands.

    Args:
        model: a float graph.
        weights: name of the float initializer by unit.
        units: by name.
        chosen: how MatMulNBits runs a unit, by its name; the fastest way by default.
        unpack: when weights that no kernel reads become floats: on every call, or once while the
            file is loaded.
    """
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    graph = model.graph
    start = Nodes(graph, "load")
    kernels: dict[str, tuple[str, ...]] = {}
    operands: dict[str, Operands] = {}
    rounds = False
    rest = "DequantizeLinear" if unpack == "call" else "floats"
    for unit_name, name in weights.items():
        value = graph.initializers[name]
        # The packed tensors may take the parameter's own name.
        operands[unit_name] = own = Operands(graph, units[unit_name], start)
        kernel = (chosen or {}).get(unit_name) or usual_kernel(own.fmt, own.columns)
        found = [_replace(own, node, index, kernel) for node, index in list(value.uses())]
        rounds |= kernel is not None and kernel.rounds and "MatMulNBits" in found
        _dequantize_rest(own, value, unpack)
        kernels[unit_name] = tuple(dict.fromkeys(k or rest for k in found))
        del graph.initializers[name]
    start.at_start()
    RemoveUnusedNodesPass()(model)
    if any(v.dtype is not None and v.dtype.name in ("UINT2", "INT2")
           for v in graph.initializers.values()):  # fmt: skip
        model.opset_imports[""], model.ir_version = 25, 13
    used = {kernel for names in kernels.values() for kernel in names}
    return Rewritten(
        kernels,
        {name: item.stored_bytes() for name, item in operands.items()},
        rounds or "MatMulInteger" in used,
    )


def _replace(operands: Operands, node: ir.Node, index: int, kernel: Kernel | None) -> str | None:
    """Let one user of a unit read packed weights; the operator, or None if none can."""
    match node.op_type:
        case "Gather" if index == 0 and _integer(node, "axis", 0) == 0:
            return _gather(operands, node)
        case "Conv" if index == 1:
            _convolution(operands, node)
            return None
        case "Gemm" if index == 1 and _is_linear(node) and _is_matrix(operands):
            bias = node.inputs[2] if len(node.inputs) > 2 else None
            return _linear(operands, node, node, bias, kernel)
        case "Transpose" if _is_matrix(operands):
            kinds = [
                _linear(operands, user, *_with_bias(user), kernel)
                for user, place in list(node.outputs[0].uses())
                if user.op_type == "MatMul" and place == 1
            ]
            return kinds[0] if kinds and not node.outputs[0].uses() else None
        case _:
            return None


def _linear(
    operands: Operands,
    product: ir.Node,
    last: ir.Node,
    bias: ir.Value | None,
    kernel: Kernel | None,
) -> str | None:
    """Replace `product`, and the addition of the bias that ends with `last`."""
    x = product.inputs[0]
    nodes = Nodes(_graph(product), f"{operands.unit.name}/{product.name}")
    assert x is not None
    if integer.takes(operands):
        result, kind = integer.matmul(operands, nodes, x, bias), "MatMulInteger"
    elif kernel is not None:
        x = integer.rounded_floats(operands, nodes, x)
        result = matmul.matmul(
            operands, nodes, x, bias, block=kernel.block, accuracy_level=kernel.accuracy_level
        )
        kind = "MatMulNBits"
    else:
        return None
    nodes.before(last)
    replaced(last, result)
    if last is not product:
        _graph(product).remove(product, safe=True)
    return kind


def _with_bias(product: ir.Node) -> tuple[ir.Node, ir.Value | None]:
    """The addition of a vector after a product, and that vector; else the product itself."""
    output = product.outputs[0]
    uses = list(output.uses())
    if len(uses) == 1 and uses[0][0].op_type == "Add" and not output.is_graph_output():
        addition, place = uses[0]
        other = addition.inputs[1 - place]
        if other is not None and other.is_initializer() and other.shape is not None:
            shape = tuple(other.shape)
            if len(shape) == 1 and shape[0] != 1:
                return addition, other
    return product, None


def _gather(operands: Operands, node: ir.Node) -> str | None:
    indices = node.inputs[1]
    assert indices is not None
    nodes = Nodes(_graph(node), f"{operands.unit.name}/{node.name}")
    if operands.unit.is_float:
        rows = nodes.op("Gather", [operands.half(), indices])
        result, kind = nodes.op("Cast", [rows], {"to": _FLOAT}), "Gather"
    elif gather.block_size(operands) is not None:
        result, kind = gather.gather(operands, nodes, indices), "GatherBlockQuantized"
    else:
        return None
    nodes.before(node)
    replaced(node, result)
    return kind


def _convolution(operands: Operands, node: ir.Node) -> None:
    """A rounded input; packed weights come from `_dequantize_rest`.

    ONNX Runtime's ConvInteger would compute the same sums in integers and takes 3 to 12 times as
    long as the float convolution does (1.31, CREPE and EfficientNet-Lite0).
    """
    x = node.inputs[0]
    assert x is not None
    if operands.fmt.activation != "none":
        nodes = Nodes(_graph(node), f"{operands.unit.name}/{node.name}")
        node.replace_input_with(0, integer.rounded_floats(operands, nodes, x))
        nodes.before(node)


def _dequantize_rest(operands: Operands, value: ir.Value, unpack: Unpack) -> None:
    """What still reads the floats reads dequantized codes."""
    users = {node for node, _ in value.uses()}
    if not users:
        return
    graph = next(iter(users)).graph
    assert graph is not None
    nodes = Nodes(graph, f"{operands.unit.name}/floats")
    floats = folded(operands) if unpack == "load" else dequantized(operands, nodes)
    # ONNX Runtime orders nodes by a search in depth that takes the later of two nodes first: in
    # front of its reader this one would run before all others, and every unit's floats would live
    # at once (EfficientNet-Lite0 in 8 bits: 73 MB in place of 43).
    nodes.at_start()
    for node, index in list(value.uses()):
        node.replace_input_with(index, floats)


def _is_matrix(operands: Operands) -> bool:
    return operands.unit.packed.shape == (operands.rows, operands.columns)


def _is_linear(node: ir.Node) -> bool:
    plain = all(node.attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta"))
    return plain and _integer(node, "transB", 0) == 1 and _integer(node, "transA", 0) == 0


def _integer(node: ir.Node, name: str, default: int) -> int:
    found: Any = node.attributes.get_int(name, default)
    return int(found)


def _graph(node: ir.Node) -> ir.Graph:
    graph: Any = node.graph
    assert graph is not None
    return graph  # type: ignore[no-any-return]
