"""Parts: the builder's weights as units of their own, in the way that `export.onnx` rewrites."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from mixq.export.genai.places import Place
from mixq.export.source import Unit
from mixq.quantize.packing import pack, unpack
from mixq.quantize.weights import PackedWeight

if TYPE_CHECKING:
    import onnx_ir as ir


def part_of(unit: Unit, rows: slice) -> Unit:
    """Some rows of a unit: their codes, scales, zero points and minimums as they are."""
    p = unit.packed
    count = rows.stop - rows.start
    if count == p.rows:
        return unit
    bits, groups = p.format.bits, p.format.groups_per_row(p.columns)

    def cut(name: str, tensor: Tensor) -> Tensor:
        if name in ("codes", "zeros"):
            width = p.columns if name == "codes" else groups
            numbers = unpack(tensor, bits, p.rows * width).view(p.rows, width)
            return pack(numbers[rows], bits)
        if name in ("input_scale", "input_zero"):
            return tensor
        return tensor.reshape(p.rows, -1)[rows].contiguous()

    tensors = {name: cut(name, tensor) for name, tensor in p.tensors.items()}
    packed: PackedWeight = replace(
        p, shape=(count, p.columns), rows=count, columns=p.columns, tensors=tensors
    )
    name = f"{unit.name}.rows.{rows.start}"
    return Unit(name, (name,), packed)


def lay_out(
    graph: ir.Graph, found: list[Place]
) -> tuple[dict[str, str], dict[str, Unit], dict[str, str]]:
    """Give every place an initializer (rows, columns), as the graphs that torch makes have it.

    Products read it through a Transpose, lookups as it is. Places that hold the same rows share
    one: a tied head is stored once.

    Returns:
        By the parts' names: the initializers' names and the units, for `onnx.rewrite.rewrite`,
        and the names of the plan's units that they are parts of.
    """
    import onnx_ir as ir

    weights: dict[str, str] = {}
    units: dict[str, Unit] = {}
    wholes: dict[str, str] = {}
    for place in found:
        part = part_of(place.unit, place.rows)
        name = f"{part.name}.floats"
        value = graph.initializers.get(name) or _placeholder(graph, name, part.packed)
        weights[part.name], units[part.name] = name, part
        wholes[part.name] = place.unit.name
        if place.products:
            turned = ir.Value(name=f"{place.value.name}.turned")
            turn = ir.node("Transpose", [value], {"perm": [1, 0]}, outputs=[turned])
            graph.insert_before(min(place.products, key=graph.index), turn)
            for node in place.products:
                node.replace_input_with(1, turned)
        for node in place.lookups:
            node.replace_input_with(0, value)
        for node in list(place.value.consumers()):  # the Transpose of a tied head
            graph.remove(node, safe=True)
        del graph.initializers[str(place.value.name)]
    return weights, units, wholes


def _placeholder(graph: ir.Graph, name: str, packed: PackedWeight) -> ir.Value:
    """An initializer of the right shape: what it holds is never read."""
    import onnx_ir as ir

    zeros = np.broadcast_to(np.float32(0), (packed.rows, packed.columns))
    tensor = ir.tensor(zeros, name=name)
    shape = ir.Shape(zeros.shape)
    value = ir.Value(name=name, const_value=tensor, shape=shape, type=ir.TensorType(tensor.dtype))
    graph.initializers.add(value)
    return value
