"""Rewriting: floats of units become DequantizeLinear, rounded inputs QuantizeLinear pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mixq.export.onnx.nodes import Nodes, initializer
from mixq.export.qdq.weights import dequantized
from mixq.export.source import Unit

Steps = tuple[float, int]


class Rewriter:
    """Rewrites one graph in place.

    Args:
        graph: a float graph.
        units: by name.
        outputs: scale and uint8 zero point of what a unit's operator gives out, by unit; those
            outputs are quantized too, and the biases with them.
        symmetric: whether rounded activations are int8 without a zero point in place of uint8.
    """

    def __init__(
        self,
        graph: Any,
        units: Mapping[str, Unit],
        outputs: Mapping[str, Steps],
        *,
        symmetric: bool = False,
    ) -> None:
        self._graph, self._units, self._outputs = graph, units, outputs
        self._symmetric = symmetric

    def rewrite(self, name: str, weight: Any) -> None:
        """Let every reader of a unit's floats read its integers."""
        unit = self._units[name]
        matrix = unit.packed.shape == (unit.packed.rows, unit.packed.columns)
        for node, place in list(weight.uses()):
            if node.op_type == "Transpose" and matrix:
                for product, side in list(node.outputs[0].uses()):
                    if product.op_type == "MatMul" and side == 1:
                        self._product(unit, product)
            elif node.op_type in ("Gemm", "Conv") and place == 1:
                self._with_bias(unit, node)
        rest = list(weight.uses())
        if rest:
            nodes = Nodes(self._graph, f"{name}/floats")
            floats = dequantized(self._graph, nodes, unit)
            readers = {node for node, _ in rest}
            nodes.before(next(node for node in self._graph if node in readers))
            for node, place in rest:
                node.replace_input_with(place, floats)
        del self._graph.initializers[weight.name]

    def _product(self, unit: Unit, node: Any) -> None:
        nodes = Nodes(self._graph, f"{unit.name}/{node.name}")
        node.replace_input_with(0, self._rounded(unit, nodes, node.inputs[0]))
        node.replace_input_with(1, dequantized(self._graph, nodes, unit, transposed=True))
        nodes.before(node)
        self._round_output(unit, node)

    def _with_bias(self, unit: Unit, node: Any) -> None:
        """A Gemm or Conv: its input, and its bias where the output is quantized."""
        nodes = Nodes(self._graph, f"{unit.name}/{node.name}")
        node.replace_input_with(0, self._rounded(unit, nodes, node.inputs[0]))
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if unit.name in self._outputs and bias is not None and bias.const_value is not None:
            node.replace_input_with(2, self._integer_bias(unit, nodes, bias))
        nodes.before(node)
        self._round_output(unit, node)

    def _rounded(self, unit: Unit, nodes: Nodes, x: Any) -> Any:
        """The input as 8-bit integers and back, where the format rounds it."""
        if unit.packed.format.activation == "none":
            return x
        return self._pair(f"{unit.name}.input", nodes, x, *self.input_steps(unit))

    def input_steps(self, unit: Unit) -> Steps:
        """Scale and zero point of a unit's rounded inputs."""
        stored = unit.packed.tensors
        scale, zero = float(stored["input_scale"]), int(stored["input_zero"])
        if not self._symmetric:
            return scale, zero
        return max(zero, 255 - zero) * scale / 127, 0

    def _round_output(self, unit: Unit, node: Any) -> None:
        steps = self._outputs.get(unit.name)
        if steps is None:
            return
        output = node.outputs[0]
        users = list(output.uses())
        nodes = Nodes(self._graph, f"{unit.name}/{node.name}/output")
        rounded = self._pair(f"{unit.name}.output", nodes, output, *steps)
        following = next(item for item in self._graph if item in {user for user, _ in users})
        nodes.before(following)
        for user, place in users:
            user.replace_input_with(place, rounded)

    def _pair(self, name: str, nodes: Nodes, x: Any, scale: float, zero: int) -> Any:
        kind = np.int8 if self._symmetric else np.uint8
        steps = [
            initializer(self._graph, f"{name}_scale", np.array(scale, np.float32)),
            initializer(self._graph, f"{name}_zero", np.array(zero, kind)),
        ]
        codes = nodes.op("QuantizeLinear", [x, *steps])
        return nodes.op("DequantizeLinear", [codes, *steps])

    def _integer_bias(self, unit: Unit, nodes: Nodes, bias: Any) -> Any:
        """The bias in int32, in steps of the input's scale times the weights' scales."""
        if unit.packed.format.groups_per_row(unit.packed.columns) > 1:
            return bias
        scales = unit.scales[:, 0].astype(np.float64) * self.input_steps(unit)[0]
        codes = np.rint(bias.const_value.numpy().astype(np.float64) / scales)
        limits = np.iinfo(np.int32)
        inputs = [
            initializer(self._graph, f"{unit.name}.bias_codes",
                        codes.clip(limits.min, limits.max).astype(np.int32)),
            initializer(self._graph, f"{unit.name}.bias_scales", scales.astype(np.float32)),
        ]  # fmt: skip
        return nodes.op("DequantizeLinear", inputs, {"axis": 0})
