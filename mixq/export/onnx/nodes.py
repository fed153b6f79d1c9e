"""Nodes: what is added to a graph, at its start or in the place of a node that it replaces."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir

MICROSOFT = "com.microsoft"
"""Domain of ONNX Runtime's own operators."""


class Nodes:
    """New nodes of one graph, in the order in which they are made.

    Args:
        graph: that they will belong to.
        prefix: of the names of their outputs.

    Attributes:
        shared: values that several users need, by what they are.
    """

    def __init__(self, graph: ir.Graph, prefix: str) -> None:
        self._graph, self._prefix = graph, prefix
        self._made: list[ir.Node] = []
        self.shared: dict[Hashable, ir.Value] = {}

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        domain: str = "",
        outputs: int = 1,
    ) -> Any:
        """Make a node; its output, or all of them if there are several."""
        import onnx_ir as ir

        name = f"{self._prefix}/{op_type}.{len(self._made)}"
        values = [ir.Value(name=name if i == 0 else f"{name}.{i}") for i in range(outputs)]
        node = ir.node(
            op_type,
            list(inputs),
            attributes=dict(attributes or {}),
            domain=domain,
            name=name,
            outputs=values,
        )
        self._made.append(node)
        return values[0] if outputs == 1 else values

    def constant(self, values: Any, dtype: Any = np.int64) -> ir.Value:
        """A small constant as an initializer, shared between equal ones of the graph."""
        array = np.asarray(values, dtype=dtype)
        tag = array.tobytes().hex() if array.size <= 8 else f"{self._prefix}.{len(self._made)}"
        shape = "x".join(map(str, array.shape))
        return initializer(self._graph, f"mixq.{array.dtype}.{shape}.{tag}", array)

    def at_start(self) -> None:
        """Put the nodes before all others: they depend on initializers alone."""
        made, self._made = self._made, []
        first = next(iter(self._graph), None)
        if first is None:
            self._graph.extend(made)
        else:
            self._graph.insert_before(first, made)

    def before(self, node: ir.Node) -> None:
        """Put the nodes before one of the graph's."""
        made, self._made = self._made, []
        self._graph.insert_before(node, made)

    def after(self, node: ir.Node) -> None:
        """Put the nodes behind one of the graph's."""
        made, self._made = self._made, []
        self._graph.insert_after(node, made)


def initializer(graph: ir.Graph, name: str, array: Any) -> ir.Value:
    """The initializer of that name, made if it is not there; `array` may be of `ml_dtypes`."""
    import onnx_ir as ir

    found = graph.initializers.get(name)
    if found is not None:
        return found
    tensor: Any = ir.tensor(np.asarray(array, order="C"), name=name)
    value = ir.Value(
        name=name,
        const_value=tensor,
        shape=ir.Shape(tensor.shape),
        type=ir.TensorType(tensor.dtype),
    )
    graph.initializers.add(value)
    return value


def replaced(node: ir.Node, value: ir.Value) -> None:
    """Let `value` take the place of a node's only output; the node goes.

    A graph's output keeps its name.
    """
    import onnx_ir as ir

    old = node.outputs[0]
    name, shape, kind = old.name, old.shape, old.type
    ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
    graph = node.graph
    assert graph is not None
    if any(output is value for output in graph.outputs):
        old.name = f"{name}.replaced"
        value.name = name
    value.shape, value.type = shape, kind
    graph.remove(node, safe=True)
