from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixq.cost.machine import Machine
from mixq.cost.memory import ONNX_RUNTIME, PLAIN, cache_bytes, loaded_bytes, rule_of
from mixq.cost.table import CostTable, UnitCost
from mixq.formats import Format
from mixq.graph.units import WeightUnit
from mixq.graph.work import Work
from mixq.profiles import load

W32, W8, W4 = Format(32), Format.parse("w8g64"), Format.parse("w4g64")


def unit(*works: Work) -> WeightUnit:
    return WeightUnit("w", (256, 512), 256, 512, 4, "Linear", work=works)


GEMM, GATHER, CONV = (Work(kind) for kind in ("gemm", "gather", "conv"))


@pytest.mark.parametrize("works", [(GEMM,), (GATHER,), (CONV,), (GEMM, GATHER), ()])
@pytest.mark.parametrize("fmt", [W32, Format(16), W8, W4, Format.parse("w2g64-zp")])
def test_weights_take_at_least_what_is_stored(works: tuple[Work, ...], fmt: Format) -> None:
    own = unit(*works)
    assert loaded_bytes(ONNX_RUNTIME, own, fmt) >= own.stored_bytes(fmt)
    assert loaded_bytes(PLAIN, own, fmt) in {
        own.stored_bytes(fmt) * max(len({work.kind for work in works}), 1)
    }


@pytest.mark.parametrize("work", [GEMM, GATHER, CONV])
def test_fewer_bits_never_take_more(work: Work) -> None:
    own = unit(work)
    formats = [W32, W8, W4, Format.parse("w2g64")]
    sizes = [loaded_bytes(ONNX_RUNTIME, own, fmt) for fmt in formats]
    assert sizes == sorted(sizes, reverse=True)


def test_a_table_that_is_also_a_head_is_held_for_both() -> None:
    both = loaded_bytes(ONNX_RUNTIME, unit(GATHER, GEMM), W32)
    assert both == sum(loaded_bytes(ONNX_RUNTIME, unit(work), W32) for work in (GATHER, GEMM))


def test_runtimes_without_a_rule_are_plain() -> None:
    cpu, gpu = (Machine.of(load(name)) for name in ("intel_cpu", "nvidia_a100"))
    assert rule_of(cpu) is ONNX_RUNTIME
    assert rule_of(gpu) is PLAIN
    other = replace(cpu, runtime=replace(cpu.runtime, name="something else"))
    assert rule_of(other) is PLAIN


def test_the_cache_of_llama_2_7b() -> None:
    # 32 layers, 32 heads of 128 numbers, 2 bytes each: half a megabyte per token.
    assert cache_bytes(layers=32, heads=32, head_size=128, tokens=1, element_bytes=2) == 524288
    one = cache_bytes(layers=2, heads=3, head_size=4, tokens=5)
    assert cache_bytes(layers=2, heads=3, head_size=4, tokens=10, batch_size=3) == 6 * one


def cost(weight_bytes: int, loaded: int = 0, *, unpacked: bool = False) -> UnitCost:
    return UnitCost(1e-3, weight_bytes, "k", "r", loaded_bytes=loaded, is_unpacked=unpacked)


TABLE = CostTable(
    hardware="h", runtime="onnxruntime", threads=1,
    entries={
        "a": {W32: cost(400, 700), W8: cost(100, unpacked=True)},
        "b": {W32: cost(800, 900), W8: cost(200, 250)},
    },
    other_latency_s=0.0, other_bytes=10, peak_activation_bytes=50, runtime_bytes=1000,
    node_bytes=5, working_bytes=60, unpacked_working_bytes=90,
    cache_bytes=7,
)  # fmt: skip


def test_peak_memory_by_hand() -> None:
    constant = 1000 + 10 + 5 + 7
    assert TABLE.peak_memory_bytes({}) == constant + 700 + 900 + 60
    # A unit without kernel brings the other kind of working memory.
    assert TABLE.peak_memory_bytes({"a": W8}) == constant + 100 + 900 + 90
    assert TABLE.peak_memory_bytes({"a": W32, "b": W8}) == constant + 700 + 250 + 60


@given(st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from([W32, W8])))
def test_the_sum_of_units_is_an_upper_bound(chosen: dict[str, Format]) -> None:
    whole = {"a": W32, "b": W32} | chosen
    bound = TABLE.constant_memory_bytes + sum(TABLE.memory_bytes(*item) for item in whole.items())
    assert bound >= TABLE.peak_memory_bytes(whole)
    if whole["a"] == W8:
        assert bound == TABLE.peak_memory_bytes(whole)


def test_files_have_more_than_tensors() -> None:
    table = replace(TABLE, file_graph_bytes=30, file_unit_bytes=4)
    assert table.file_bytes({}) == table.weight_bytes({}) + 30
    assert table.file_bytes({"a": W8}) == table.weight_bytes({"a": W8}) + 34
