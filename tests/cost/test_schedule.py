"""What lives when, on small graphs made by hand in the order of a trace."""

from __future__ import annotations

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixq.cost.arena import live_peak
from mixq.cost.schedule import Schedule, schedule
from mixq.graph.model_graph import ModelGraph
from mixq.graph.units import WeightUnit
from mixq.graph.work import Work

ROW = 1024


def graph_of(
    nodes: list[tuple[str, int, list[int]]], units: dict[int, str] | None = None
) -> ModelGraph:
    """Nodes of (operator, bytes written, indices of those read); the units that some read."""
    digraph: nx.DiGraph[str] = nx.DiGraph()
    for index, (op, size, reads) in enumerate(nodes):
        kind = "conv" if op == "convolution" else "elementwise"
        work = Work(kind, output_bytes=size)  # type: ignore[arg-type]
        read = (units[index],) if units and index in units else ()
        digraph.add_node(
            f"{index:06d}", work=work, units=read, op=f"aten.{op}.default", shape=(size // 4,)
        )
        digraph.add_edges_from((f"{source:06d}", f"{index:06d}") for source in reads)
    names = dict.fromkeys((units or {}).values())
    return ModelGraph(
        digraph=digraph,
        units={name: WeightUnit(name, (8, 8), 8, 8, 4, "Conv2d") for name in names},
        parameters=0, original_bytes=0, other_bytes=0, peak_activation_bytes=0, batch_size=1,
        source="dispatch",
    )  # fmt: skip


def peak(found: Schedule) -> int:
    return live_peak([*found.buffers, *found.outputs])


@pytest.mark.parametrize(
    ("nodes", "rows"),
    [
        pytest.param([("mm", ROW, []), ("mm", ROW, [0]), ("mm", ROW, [1])], 2, id="chain"),
        pytest.param(
            [("mm", ROW, []), ("mm", ROW, [0]), ("mm", ROW, [1]), ("mm", ROW, [2, 0])],
            3,
            id="a value lives to its last reader",
        ),
        pytest.param([("mm", ROW, []), ("relu", ROW, [0])], 1, id="in place"),
        pytest.param(
            [("mm", ROW, []), ("relu", ROW, [0]), ("add", ROW, [0, 1])],
            2,
            id="not in place of what is read later",
        ),
        pytest.param([("mm", ROW, []), ("relu", 2 * ROW, [0])], 3, id="not in place of less"),
        pytest.param(
            [("constant_pad_nd", 5 * ROW, []), ("convolution", ROW, [0])], 1, id="padded input"
        ),
        pytest.param(
            [("mm", ROW, []), ("constant_pad_nd", 5 * ROW, [0]), ("convolution", ROW, [1])],
            2,
            id="padding is part of the convolution",
        ),
        pytest.param(
            [("mm", ROW, []), ("constant_pad_nd", 5 * ROW, [0]), ("mm", ROW, [1])],
            6,
            id="padding for another reader",
        ),
        pytest.param([("gelu", ROW, []), ("gelu", ROW, [0])], 2, id="gelu is not in place"),
    ],
)
def test_peak(nodes: list[tuple[str, int, list[int]]], rows: int) -> None:
    assert peak(schedule(graph_of(nodes))) == rows * ROW


CONVOLUTION = [("convolution", ROW, []), ("native_batch_norm", ROW, [0]), ("relu", ROW, [1])]


def test_a_normalisation_is_folded_unless_the_weights_are_dequantized() -> None:
    graph = graph_of(CONVOLUTION, {0: "w"})
    assert peak(schedule(graph)) == ROW
    assert peak(schedule(graph, {"w": 0})) == 2 * ROW


def test_a_float_copy_lives_while_its_reader_runs() -> None:
    graph = graph_of([("mm", 2 * ROW, []), ("mm", ROW, [0]), ("mm", ROW, [1])], {1: "w", 2: "v"})
    assert peak(schedule(graph)) == 3 * ROW
    assert peak(schedule(graph, {"w": 7 * ROW})) == 10 * ROW
    assert peak(schedule(graph, {"w": ROW, "v": 4 * ROW})) == 6 * ROW


def test_what_nobody_reads_is_an_output() -> None:
    found = schedule(graph_of([("mm", ROW, []), ("mm", 3 * ROW, [0])]))
    assert [buffer.size_bytes for buffer in found.outputs] == [3 * ROW]
    assert [buffer.size_bytes for buffer in found.buffers] == [ROW]


@st.composite
def networks(draw: st.DrawFn) -> list[tuple[str, int, list[int]]]:
    nodes: list[tuple[str, int, list[int]]] = []
    for index in range(draw(st.integers(1, 10))):
        reads = draw(st.lists(st.integers(0, index - 1), max_size=3, unique=True)) if index else []
        nodes.append(("mm", 4 * draw(st.integers(1, 1000)), reads))
    return nodes


@given(networks())
def test_an_operation_has_its_inputs_and_its_output(
    nodes: list[tuple[str, int, list[int]]],
) -> None:
    found = peak(schedule(graph_of(nodes)))
    for _, size, reads in nodes:
        assert found >= size + sum(nodes[source][1] for source in reads)
    assert found <= sum(size for _, size, _ in nodes)


@given(networks(), st.data())
def test_one_more_operation_never_lowers_the_peak(
    nodes: list[tuple[str, int, list[int]]], data: st.DataObject
) -> None:
    reads = data.draw(st.lists(st.integers(0, len(nodes) - 1), max_size=3, unique=True))
    longer = [*nodes, ("mm", 64, reads)]
    assert peak(schedule(graph_of(longer))) >= peak(schedule(graph_of(nodes)))


@given(networks(), st.integers(1, 16))
def test_the_peak_grows_with_the_batch(
    nodes: list[tuple[str, int, list[int]]], batch: int
) -> None:
    larger = [(op, size * batch, reads) for op, size, reads in nodes]
    assert peak(schedule(graph_of(larger))) == batch * peak(schedule(graph_of(nodes)))
