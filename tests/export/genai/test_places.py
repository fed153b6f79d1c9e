"""Weights are found by value, and rows of a unit keep their integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixq.errors import ExportError
from mixq.export.genai.parts import lay_out, part_of
from mixq.export.genai.places import places
from mixq.export.source import Source, Unit
from mixq.formats import Format
from mixq.quantize.weights import pack_weight

from .conftest import model_of, source_of

ir: Any = pytest.importorskip("onnx_ir", reason="an extra")

FORMATS = ("w8g16", "w4g16-zp", "w2g16-affine", "w4-zp", "w2", "w16", "w16-bf16")


def unit_of(rows: int, columns: int, name: str) -> Unit:
    torch.manual_seed(rows)
    packed = pack_weight(torch.randn(rows, columns), Format.parse(name), rows, columns)
    return Unit("layer.weight", ("layer.weight",), packed)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(2, 9), columns=st.integers(3, 70), name=st.sampled_from(FORMATS),
    data=st.data(),
)  # fmt: skip
def test_a_part_has_the_integers_of_its_rows(
    rows: int, columns: int, name: str, data: Any
) -> None:
    unit = unit_of(rows, columns, name)
    start = data.draw(st.integers(0, rows - 1))
    stop = data.draw(st.integers(start + 1, rows))
    part = part_of(unit, slice(start, stop))
    assert torch.equal(part.weight(), unit.weight()[start:stop])
    if not unit.is_float:
        assert np.array_equal(part.codes, unit.codes[start:stop])
        assert np.array_equal(part.scales, unit.scales[start:stop])


def test_the_whole_is_its_own_part() -> None:
    unit = unit_of(4, 32, "w4g16-zp")
    assert part_of(unit, slice(0, 4)) is unit


class Graph:
    """A graph that multiplies by some matrices, and looks rows of others up."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.nodes: list[Any] = []
        self.x = ir.Value(name="x", shape=ir.Shape([1, 96]), type=ir.TensorType(ir.DataType.FLOAT))

    def weight(self, array: Any) -> Any:
        tensor = ir.tensor(np.ascontiguousarray(array), name=f"w{len(self.values)}")
        value = ir.Value(
            name=tensor.name, const_value=tensor, shape=ir.Shape(tensor.shape.numpy()),
            type=ir.TensorType(tensor.dtype),
        )  # fmt: skip
        self.values.append(value)
        return value

    def node(self, kind: str, *inputs: Any) -> Any:
        made = ir.node(kind, list(inputs))
        self.nodes.append(made)
        return made.outputs[0]

    def product(self, matrix: Any) -> Any:
        return self.node("MatMul", self.x, self.weight(matrix.T))

    def finished(self) -> Any:
        return ir.Graph(
            [self.x], [self.nodes[-1].outputs[0]], nodes=self.nodes, initializers=self.values
        )


@pytest.fixture(scope="module")
def source() -> Source:
    return source_of(model_of("tied"), None, "w4g32")


def matrices(source: Source) -> dict[str, Any]:
    return {name: unit.weight().numpy() for name, unit in source.units.items()}


def test_products_cuts_and_tied_heads_are_found(source: Source) -> None:
    graph, wanted = Graph(), matrices(source)
    for name, matrix in wanted.items():
        if name.endswith("up_proj.weight"):  # cut in two, as a fused matrix is
            graph.product(matrix[:100])
            graph.product(matrix[100:])
        elif name == "model.embed_tokens.weight":
            head = graph.weight(matrix.T)
            graph.node("Gather", graph.node("Transpose", head), graph.x)
            graph.node("MatMul", graph.x, head)
        else:
            graph.product(matrix)
    other = graph.weight(np.ones((96, 3), dtype=np.float32))
    graph.node("MatMul", graph.x, other)
    made = graph.finished()
    found = places(made, source)
    for place in found:
        held: Any = place.value.const_value
        assert np.array_equal(held.numpy().T, wanted[place.unit.name][place.rows])
    tied = next(p for p in found if p.unit.name == "model.embed_tokens.weight")
    assert (len(tied.products), len(tied.lookups)) == (1, 1)
    _, units, _ = lay_out(made, found)
    assert len(units) == len(wanted) + 2  # one more for each of two layers
    assert other.name in made.initializers
    assert not [name for name in made.initializers if name.startswith("w") and name != other.name]


@pytest.mark.parametrize("lost", ["all", "rows", "other use"])
def test_a_unit_that_is_not_there_is_named(source: Source, lost: str) -> None:
    graph, last = Graph(), "model.layers.1.mlp.down_proj.weight"
    for name, matrix in matrices(source).items():
        if name != last:
            graph.product(matrix)
        elif lost == "rows":
            graph.product(matrix[:50])
        elif lost == "other use":
            graph.node("Mul", graph.x, graph.weight(matrix.T))
    with pytest.raises(ExportError, match=r"down_proj\.weight is planned at 4 bits.*--pin model"):
        places(graph.finished(), source)


def test_equal_weights_are_all_placed() -> None:
    model = model_of("tied")
    layers: Any = model.model.layers  # type: ignore[union-attr]
    with torch.no_grad():
        layers[1].self_attn.q_proj.weight.copy_(layers[0].self_attn.q_proj.weight)
    source = source_of(model, None, "w4g32")
    graph = Graph()
    for matrix in matrices(source).values():
        graph.product(matrix)
    found = places(graph.finished(), source)
    assert sorted(place.unit.name for place in found) == sorted(source.units)
