from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import networkx as nx
import pytest

from mixq.cost.build import build_cost_table
from mixq.cost.kernels import price
from mixq.cost.machine import Machine
from mixq.cost.table import CostTable
from mixq.errors import FormatError, UsageError
from mixq.formats import Format
from mixq.graph.model_graph import ModelGraph
from mixq.graph.units import WeightUnit
from mixq.graph.work import Work
from mixq.profiles import available, load

W32 = Format(32)
CANDIDATES = tuple(map(Format.parse, ["w16", "w8", "w8g64", "w4g64", "w4g64-zp", "w2g64"]))
MINILM_LAYERS = 6


def gemm(m: int, n: int, k: int) -> Work:
    return Work("gemm", m=m, n=n, k=k, input_bytes=4 * m * k, output_bytes=4 * m * n)


def linear(name: str, n: int, k: int, *work: Work) -> WeightUnit:
    return WeightUnit(name, (n, k), n, k, 4, "Linear", work=work)


def graph_of(units: list[WeightUnit], others: list[Work]) -> ModelGraph:
    digraph: nx.DiGraph[str] = nx.DiGraph()
    for unit in units:
        for position, work in enumerate(unit.work):
            digraph.add_node(f"{unit.name}.{position}", work=work, units=(unit.name,))
    for position, work in enumerate(others):
        digraph.add_node(f"other.{position}", work=work, units=())
    weights = sum(unit.weights for unit in units)
    return ModelGraph(
        digraph=digraph,
        units={unit.name: unit for unit in units},
        parameters=weights + 100,
        original_bytes=4 * weights + 400,
        other_bytes=400,
        peak_activation_bytes=123_456,
        batch_size=1,
        source="dispatch",
    )


def minilm() -> ModelGraph:
    """The matrices of all-MiniLM-L6 (hidden 384, intermediate 1536) on 128 tokens."""
    m, hidden, inner = 128, 384, 1536
    units = [
        WeightUnit("word", (30522, hidden), 30522, hidden, 4, "Embedding",
                   work=(Work("gather", m=m, n=hidden, output_bytes=4 * m * hidden),))
    ]  # fmt: skip
    others = []
    for layer in range(MINILM_LAYERS):
        for name in ("query", "key", "value", "output"):
            units.append(linear(f"{layer}.{name}", hidden, hidden, gemm(m, hidden, hidden)))
        units.append(linear(f"{layer}.up", inner, hidden, gemm(m, inner, hidden)))
        units.append(linear(f"{layer}.down", hidden, inner, gemm(m, hidden, inner)))
        others += [Work("attention", m=m, n=m, k=32, groups=12)] * 2
        others += [Work("elementwise", input_bytes=4 * m * inner, output_bytes=4 * m * inner)] * 4
    return graph_of(units, others)


def table_of(graph: ModelGraph, name: str = "intel_cpu") -> CostTable:
    return build_cost_table(graph, dict.fromkeys(graph.units, CANDIDATES), load(name))


def test_minilm_on_a_xeon_takes_milliseconds() -> None:
    table = table_of(minilm())
    assert 1e-3 < table.baseline_latency_s < 20e-3
    assert (table.hardware, table.runtime, table.threads) == ("intel_cpu", "onnxruntime", 8)
    assert 0 < table.other_latency_s < table.baseline_latency_s


@pytest.mark.parametrize("name", available())
def test_bytes_are_those_of_the_units(name: str) -> None:
    graph = minilm()
    table = table_of(graph, name)
    for unit in graph.units.values():
        for fmt in (W32, *CANDIDATES):
            assert table.entries[unit.name][fmt].weight_bytes == unit.stored_bytes(fmt)
    for fmt in (W32, *CANDIDATES):
        exact = 400 + sum(unit.stored_bytes(fmt) for unit in graph.units.values())
        assert table.weight_bytes(dict.fromkeys(graph.units, fmt)) == exact
    assert table.weight_bytes({}) == graph.original_bytes


@pytest.mark.parametrize("layout", ["", "g64", "g64-zp"], ids=["channel", "group", "zero-point"])
def test_fewer_bits_never_cost_more_bytes(layout: str) -> None:
    graph = minilm()
    widths = [W32, Format(16), *(Format.parse(f"w{bits}{layout}") for bits in (8, 4, 2))]
    table = build_cost_table(graph, dict.fromkeys(graph.units, widths), load("intel_cpu"))
    for wide, narrow in itertools.pairwise(widths):
        for prices in table.entries.values():
            assert prices[narrow].weight_bytes < prices[wide].weight_bytes


def test_w32_is_always_there_and_unnamed_units_stay_in_it() -> None:
    graph = minilm()
    w4 = Format.parse("w4g64")
    table = build_cost_table(graph, {"0.up": [w4]}, load("intel_cpu"))
    assert set(table.entries) == set(graph.units)
    assert list(table.entries["0.up"]) == [W32, w4]
    assert list(table.entries["0.down"]) == [W32]
    saved = graph.units["0.up"].stored_bytes(W32) - graph.units["0.up"].stored_bytes(w4)
    assert table.weight_bytes({}) - table.weight_bytes({"0.up": w4}) == saved


def test_peak_memory_of_an_unknown_runtime_is_weights_activations_runtime() -> None:
    known = table_of(minilm())
    entries = {
        unit: {fmt: replace(cost, loaded_bytes=0) for fmt, cost in prices.items()}
        for unit, prices in known.entries.items()
    }
    table = replace(
        known, entries=entries, node_bytes=0, working_bytes=None, unpacked_working_bytes=None
    )
    assert table.peak_memory_bytes({}) == table.weight_bytes({}) + 123_456 + 10_500_000
    assert table.constant_memory_bytes == table.other_bytes + 123_456 + 10_500_000


def test_latency_is_the_sum_and_ignores_the_order() -> None:
    graph = minilm()
    table = table_of(graph)
    assignment = dict(zip(graph.units, itertools.cycle(CANDIDATES), strict=False))
    parts = [table.entries[name][fmt].latency_s for name, fmt in assignment.items()]
    assert table.latency_s(assignment) == math.fsum([table.other_latency_s, *parts])
    backwards = dict(reversed(assignment.items()))
    assert table.latency_s(backwards) == table.latency_s(assignment)


def test_other_latency_counts_what_reads_no_unit() -> None:
    add = Work("elementwise", input_bytes=4096, output_bytes=4096)
    xeon = load("intel_cpu")
    units = [linear("a", 64, 64, gemm(1, 64, 64))]
    expected = price(Machine.of(xeon), add, W32, (0, 0)).latency_s
    assert build_cost_table(graph_of(units, []), {}, xeon).other_latency_s == 0
    table = build_cost_table(graph_of(units, [add, add]), {}, xeon)
    assert table.other_latency_s == 2 * expected


def test_shared_weights_pay_time_twice_and_bytes_once() -> None:
    gather = Work("gather", m=16, n=64, output_bytes=4096)
    head = gemm(16, 1000, 64)
    once = [linear("a", 1000, 64, gather), linear("b", 1000, 64, head)]
    tied = linear("tied", 1000, 64, gather, head)
    fmt = Format.parse("w4g64")
    apart = build_cost_table(graph_of(once, []), {"a": [fmt], "b": [fmt]}, load("intel_cpu"))
    both = build_cost_table(graph_of([tied], []), {"tied": [fmt]}, load("intel_cpu"))
    for choice in (W32, fmt):
        cost = both.cost("tied", choice)
        expected = [apart.cost("a", choice), apart.cost("b", choice)]
        assert cost.latency_s == sum(one.latency_s for one in expected)
        assert cost.weight_bytes == tied.stored_bytes(choice)
        assert cost.kernel == " + ".join(one.kernel for one in expected)


def test_unit_that_is_never_reached_takes_no_time() -> None:
    table = build_cost_table(graph_of([linear("idle", 9, 9)], []), {}, load("arm_mobile"))
    cost = table.cost("idle", W32)
    assert (cost.latency_s, cost.weight_bytes, cost.kernel) == (0.0, 324, "none")
    assert "never reached" in cost.reason


def test_elementwise_unit_reads_itself_whole() -> None:
    small, large = (
        WeightUnit(f"p{n}", (n, 512), n, 512, 4, "Model", work=(Work("elementwise"),))
        for n in (1, 10_000)
    )
    table = build_cost_table(graph_of([small, large], []), {}, load("intel_cpu"))
    moved_s = 4 * 10_000 * 512 / 204.8e9
    assert table.cost("p10000", W32).latency_s - table.cost("p1", W32).latency_s > 0.9 * moved_s


def test_bfloat16_model_is_priced_as_it_is_held() -> None:
    held, full = (
        WeightUnit(name, (512, 512), 512, 512, size, "Linear", work=(gemm(1, 512, 512),))
        for name, size in (("h", 2), ("f", 4))
    )
    table = build_cost_table(graph_of([held, full], []), {"h": [Format(16)]}, load("intel_cpu"))
    assert table.cost("h", W32).latency_s < table.cost("f", W32).latency_s
    assert table.cost("h", W32).weight_bytes == table.cost("h", Format(16)).weight_bytes
    assert table.cost("h", W32).latency_s < table.cost("h", Format(16)).latency_s


def test_json_round_trip() -> None:
    table = table_of(minilm())
    again = CostTable.from_dict(json.loads(json.dumps(table.to_dict(), allow_nan=False)))
    assert again == table
    assert again.to_dict() == table.to_dict()


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"entries": 3},
        {"entries": {"a": {"w3": {}}}},
        {"entries": {"a": {"w4": {"latency_s": 1}}}},
        {"entries": {}, "surprise": 1},
    ],
)
def test_malformed_json_is_refused(document: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="cost table is malformed"):
        CostTable.from_dict(document)


def test_unknown_names_are_refused() -> None:
    graph = minilm()
    table = table_of(graph)
    with pytest.raises(FormatError, match="'nope' has no price"):
        table.weight_bytes({"nope": W32})
    with pytest.raises(FormatError, match="no price in 'w2g32'; choose one of w32, w16"):
        table.latency_s({"0.up": Format.parse("w2g32")})
    with pytest.raises(FormatError, match="'nope', which is no weight unit"):
        build_cost_table(graph, {"nope": [W32]}, load("intel_cpu"))
    with pytest.raises(UsageError, match="choose 1 to 4"):
        build_cost_table(graph, {}, load("arm_mobile"), threads=5)


@pytest.mark.parametrize("name", available())
def test_threads_are_respected(name: str) -> None:
    graph = minilm()
    profile = load(name)
    one = build_cost_table(graph, {}, profile, threads=1)
    full = build_cost_table(graph, {}, profile, threads=profile.cores)
    assert one.threads == 1
    assert full.baseline_latency_s <= one.baseline_latency_s
