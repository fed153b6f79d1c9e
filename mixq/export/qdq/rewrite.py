"""Rewriting: floats of units become DequantizeLinear, rounded inputs QuantizeLinear pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mixq.errors import ExportError
from mixq.export.onnx.nodes import Nodes, initializer
from mixq.export.qdq.ranges import OutputSteps, Steps
from mixq.export.qdq.weights import dequantized
from mixq.export.source import Unit


class Rewriter:
    """Rewrites one graph in place.

    Args:
        graph: a float graph.
        units: by name.
        outputs: steps of what a unit's operator gives out, by unit; those outputs are quantized
            too, and the biases with them.
        symmetric: whether rounded activations are int8 without a zero point in place of uint8.
    """

    def __init__(
        self,
        graph: Any,
        units: Mapping[str, Unit],
        outputs: Mapping[str, OutputSteps],
        *,
        symmetric: bool = False,
    ) -> None:
        self._graph, self._units, self._outputs = graph, units, outputs
        self._symmetric = symmetric

    def rewrite(self, name: str, weight: Any) -> None:
        """Let every reader of a unit's floats read its integers."""
        unit = self._units[name]
        products = self._products(unit, weight)
        # Integers are stored once: transposed if all that reads them wants that.
        readers = {node for node, _ in weight.uses()}
        alone = len({node.inputs[1].producer() for node in products}) == len(readers)
        for node in products:
            self._product(unit, node, transposed=alone and not _fused_wrongly(unit))
        for node, place in list(weight.uses()):
            if node.op_type in ("Gemm", "Conv", "ConvTranspose") and place == 1:
                self._with_bias(unit, node)
                products.append(node)
        if unit.packed.format.activation != "none" and not products:
            raise ExportError(
                f"layer {name!r:.100} is planned as {unit.packed.format.name}, but the traced "
                "model has no product whose input could be rounded; search with --activations none"
            )
        rest = list(weight.uses())
        if rest:
            nodes = Nodes(self._graph, f"{name}/floats")
            floats = dequantized(self._graph, nodes, unit)
            readers = {node for node, _ in rest}
            nodes.before(next(node for node in self._graph if node in readers))
            for node, place in rest:
                node.replace_input_with(place, floats)
        del self._graph.initializers[weight.name]

    def _products(self, unit: Unit, weight: Any) -> list[Any]:
        """Nodes that multiply by the transposed weights."""
        if unit.packed.shape != (unit.packed.rows, unit.packed.columns):
            return []
        return [
            product
            for node, _ in weight.uses()
            if node.op_type == "Transpose"
            for product, side in node.outputs[0].uses()
            if product.op_type == "MatMul" and side == 1
        ]

    def _product(self, unit: Unit, node: Any, *, transposed: bool) -> None:
        nodes = Nodes(self._graph, f"{unit.name}/{node.name}")
        node.replace_input_with(0, self._rounded(unit, nodes, node.inputs[0]))
        if transposed:
            node.replace_input_with(1, dequantized(self._graph, nodes, unit, transposed=True))
        nodes.before(node)
        self._round_output(unit, node)

    def _with_bias(self, unit: Unit, node: Any) -> None:
        """A Gemm or convolution: its input, and its bias where the output is quantized."""
        nodes = Nodes(self._graph, f"{unit.name}/{node.name}")
        node.replace_input_with(0, self._rounded(unit, nodes, node.inputs[0]))
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        by_row = node.op_type != "ConvTranspose"  # whose rows are input channels
        constant = bias is not None and bias.const_value is not None
        if by_row and constant and unit.name in self._outputs:
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
        return self._signed(float(stored["input_scale"]), int(stored["input_zero"]))

    def _signed(self, scale: float, zero: int) -> Steps:
        """Steps of uint8 codes, or those of int8 codes without a zero point for their range."""
        return (max(zero, 255 - zero) * scale / 127, 0) if self._symmetric else (scale, zero)

    def _round_output(self, unit: Unit, node: Any) -> None:
        """Round what a node gives out, and what it becomes with the bias of a linear layer."""
        found = self._outputs.get(unit.name)
        if found is None:
            return
        users = [user for user, _ in node.outputs[0].uses()]
        if node.op_type == "MatMul" and len(users) == 1 and _adds_constant(users[0]):
            self._round(f"{unit.name}.output", users[0], found.output)
            self._round(f"{unit.name}.product", node, found.product)
        else:
            self._round(f"{unit.name}.output", node, found.output)

    def _round(self, name: str, node: Any, steps: Steps) -> None:
        """Let every reader of a node's output, the graph's own too, read it rounded."""
        output = node.outputs[0]
        readers = list(output.uses())
        nodes = Nodes(self._graph, f"{name}/{node.name}")
        rounded = self._pair(name, nodes, output, *self._signed(*steps))
        nodes.after(node)
        for reader, place in readers:
            reader.replace_input_with(place, rounded)
        if output.is_graph_output():
            rounded.shape, rounded.type = output.shape, output.type
            name, output.name = output.name, f"{output.name}.float"
            for index, value in enumerate(list(self._graph.outputs)):
                if value is output:
                    self._graph.outputs[index] = rounded
            rounded.name = name

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


def _fused_wrongly(unit: Unit) -> bool:
    """Whether ONNX Runtime must not see the rounded input and the weights side by side.

    It fuses a product of two 8-bit DequantizeLinear nodes into MatMulIntegerToFloat without a look
    at `block_size` (onnxruntime 1.31): an error, or wrong numbers. A Transpose between hinders it.
    """
    fmt = unit.packed.format
    grouped = fmt.groups_per_row(unit.packed.columns) > 1
    return fmt.bits == 8 and fmt.activation != "none" and grouped


def _adds_constant(node: Any) -> bool:
    return node.op_type == "Add" and any(value.const_value is not None for value in node.inputs)
