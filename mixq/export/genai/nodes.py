"""Nodes: the operators that compute with packed codes, in place of the builder's.

Scales and minimums stay float16 in the file, and are cast by nodes that ONNX Runtime folds when
it loads the file, as it folds every shape that the operators want otherwise than it is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mixq.export.genai.blocks import Blocks, blocks_of
from mixq.export.genai.places import Place

if TYPE_CHECKING:
    import onnx_ir as ir

DOMAIN: Final = "com.microsoft"
ACCURACY_LEVEL: Final = 4
"""Activations are rounded to 8 bits block by block: the only level with kernels at all widths."""


class Writer:
    """Puts nodes and initializers into a graph, and takes the ones that they replace out."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph

    def write(self, place: Place) -> None:
        """Replace one weight by the codes of its rows, in every node that reads it."""
        if place.unit.is_float:
            self._halved(place)
        else:
            self._packed(place, blocks_of(place.unit, place.rows))

    def _halved(self, place: Place) -> None:
        import onnx_ir as ir

        stored = place.unit.packed.tensors["half"]
        half = stored.reshape(place.unit.packed.rows, -1)[place.rows]
        value = place.value
        consumer = next(iter(value.consumers()))
        name = f"{value.name}.half"
        matrix = (half.T if place.transposed else half).contiguous()
        tensor = ir.tensor(matrix, name=name)
        initial = self._initializer(name, tensor)
        cast = self._node("Cast", [initial], consumer, to=int(ir.DataType.FLOAT), domain="")
        value.replace_all_uses_with(cast)
        self._drop(value)

    def _packed(self, place: Place, blocks: Blocks) -> None:
        name = str(place.value.name).removesuffix(".weight")
        first = min((*place.products, *place.lookups), key=self._order)
        data = self._array(f"{name}.codes", blocks.data)
        scales = self._array(f"{name}.scales", blocks.scales)
        scales = self._per_block(self._cast(scales, first), blocks, first)
        zeros, minimums = None, None
        if blocks.zeros is not None:
            zeros = self._array(f"{name}.zeros", blocks.zeros)
            if blocks.groups is not None and blocks.zeros.shape[1] == 1:
                index = np.zeros(blocks.zero_bytes, dtype=np.int64)
                zeros = self._gather(zeros, index, first)
        if blocks.minimums is not None:
            minimums = self._array(f"{name}.minimums", blocks.minimums)
            minimums = self._per_block(self._cast(minimums, first), blocks, first)
        if place.products:
            self._multiply(place.products, blocks, data, scales, zeros, minimums, first)
        for node in place.lookups:
            self._look_up(node, blocks, data, scales, zeros, minimums)
        self._drop(place.value)

    def _multiply(
        self,
        products: Sequence[ir.Node],
        blocks: Blocks,
        data: ir.Value,
        scales: ir.Value,
        zeros: ir.Value | None,
        minimums: ir.Value | None,
        first: ir.Node,
    ) -> None:
        rows, width = blocks.data.shape
        blob = blocks.block * blocks.bits // 8
        missing = blocks.count * blob - width
        if missing:
            pads = self._constant([0, 0, 0, missing], first)
            data = self._node("Pad", [data, pads], first)
        shape = self._constant([rows, blocks.count, blob], first)
        data = self._node("Reshape", [data, shape], first)
        if minimums is not None:  # code x scale + minimum = (code - zero) x scale
            quotient = self._node("Div", [minimums, scales], first)
            zeros = self._node("Neg", [quotient], first)
        for node in products:
            product = self._node(
                "MatMulNBits",
                [node.inputs[0], data, scales, *([] if zeros is None else [zeros])],
                node,
                domain=DOMAIN,
                K=blocks.columns,
                N=rows,
                bits=blocks.bits,
                block_size=blocks.block,
                accuracy_level=ACCURACY_LEVEL,
            )
            self._take_over(node, product)

    def _look_up(
        self,
        node: ir.Node,
        blocks: Blocks,
        data: ir.Value,
        scales: ir.Value,
        zeros: ir.Value | None,
        minimums: ir.Value | None,
    ) -> None:
        ids = node.inputs[1]
        inputs = [data, ids, scales, *([] if zeros is None else [zeros])]
        found = self._node(
            "GatherBlockQuantized",
            inputs,
            node,
            domain=DOMAIN,
            bits=blocks.bits,
            block_size=blocks.block,
            gather_axis=0,
            quantize_axis=1,
        )
        if minimums is not None:
            # Without zero points it takes 2^(bits-1) off every code; that comes back here.
            half = self._constant(float(1 << (blocks.bits - 1)), node)
            lifted = self._node("Mul", [scales, half], node)
            offsets = self._node("Add", [minimums, lifted], node)
            own = self._node("Gather", [offsets, ids], node, axis=0)
            column = np.arange(blocks.columns) // blocks.block
            wide = self._node("Gather", [own, self._constant(column, node)], node, axis=-1)
            found = self._node("Add", [found, wide], node)
        self._take_over(node, found)

    def _per_block(self, value: ir.Value, blocks: Blocks, before: ir.Node) -> ir.Value:
        return value if blocks.groups is None else self._gather(value, blocks.groups, before)

    def _gather(self, value: ir.Value, index: Any, before: ir.Node) -> ir.Value:
        return self._node("Gather", [value, self._constant(index, before)], before, axis=1)

    def _cast(self, value: ir.Value, before: ir.Node) -> ir.Value:
        import onnx_ir as ir

        return self._node("Cast", [value], before, to=int(ir.DataType.FLOAT))

    def _array(self, name: str, array: Any) -> ir.Value:
        import onnx_ir as ir

        return self._initializer(name, ir.tensor(np.ascontiguousarray(array), name=name))

    def _initializer(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        import onnx_ir as ir

        value = ir.Value(
            name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        self.graph.register_initializer(value)
        return value

    def _constant(self, content: Any, before: ir.Node) -> ir.Value:
        import onnx_ir as ir

        dtype = np.float32 if isinstance(content, float) else np.int64
        tensor = ir.tensor(np.asarray(content, dtype=dtype))
        return self._node("Constant", [], before, value=tensor)

    def _node(
        self, kind: str, inputs: Sequence[ir.Value | None], before: ir.Node, **attributes: Any
    ) -> ir.Value:
        import onnx_ir as ir

        domain = attributes.pop("domain", "")
        made = ir.node(kind, inputs, attributes=attributes, domain=domain)
        self.graph.insert_before(before, made)
        return made.outputs[0]

    def _take_over(self, old: ir.Node, new: ir.Value) -> None:
        output = old.outputs[0]
        new.shape, new.type = output.shape, output.type
        name = output.name
        output.replace_all_uses_with(new, replace_graph_outputs=True)
        parents = [value.producer() for value in old.inputs if value is not None]
        self.graph.remove(old, safe=True)
        new.name = name
        for parent in parents:  # the Transpose of a tied head, once nobody reads it
            if parent is not None and not any(o.uses() for o in parent.outputs):
                self.graph.remove(parent, safe=True)

    def _drop(self, value: ir.Value) -> None:
        if value.name is not None and not value.uses():
            del self.graph.initializers[value.name]

    def _order(self, node: ir.Node) -> int:
        return next(i for i, other in enumerate(self.graph) if other is node)
