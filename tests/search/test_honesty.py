"""What a plan says of its time, on tables made by hand."""

from __future__ import annotations

import pytest

from mixq.cost.spread import KernelTime
from mixq.cost.table import CostTable, UnitCost
from mixq.formats import Format
from mixq.search.honesty import (
    bound_note,
    floats_note,
    latency_notes,
    none_note,
    slower_note,
    slower_units,
)

W32, W8, W4 = Format(32), Format.parse("w8"), Format.parse("w4g64")


def cost(milliseconds: float, kernel: str = "sgemm", reason: str = "compute-bound") -> UnitCost:
    times = (KernelTime(kernel, milliseconds * 1e-3, 0.1),)
    return UnitCost(milliseconds * 1e-3, 100, kernel, reason, times)


def table(entries: dict[str, dict[Format, UnitCost]], other_ms: float = 2.0) -> CostTable:
    return CostTable(
        hardware="chip", runtime="engine", threads=1, entries=entries,
        other_latency_s=other_ms * 1e-3, other_bytes=0, peak_activation_bytes=0, runtime_bytes=0,
        other_times=(KernelTime("elementwise", other_ms * 1e-3, 0.2),) if other_ms else (),
    )  # fmt: skip


DEQUANTIZED = cost(9, "dequantize + conv", "no 4-bit conv kernel of engine: dequantized")
MIXED = table(
    {
        "fast": {W32: cost(4), W8: cost(1, "int8 gemm", "memory-bound")},
        "slow": {W32: cost(2), W4: cost(3, "int4 gemm", "unpack-bound")},
        "worst": {W32: cost(2), W4: DEQUANTIZED},
    }
)
CHOSEN = {"fast": W8, "slow": W4, "worst": W4}


def test_slower_layers_come_worst_first_with_kernel_and_reason() -> None:
    worst, slow = slower_units(MIXED, CHOSEN)
    assert (worst.unit, worst.ratio, worst.kernel) == ("worst", 4.5, "dequantize + conv")
    assert worst.lost_s == pytest.approx(7e-3)
    assert (slow.unit, slow.ratio, slow.reason) == ("slow", 1.5, "unpack-bound")
    assert slower_note(MIXED, CHOSEN) == (
        "2 of 3 layers are slower than in 32 bits on chip with engine, by 8 ms together: "
        "worst (w4g64, 4.50x, dequantize + conv: no 4-bit conv kernel of engine: dequantized); "
        "slow (w4g64, 1.50x, int4 gemm: unpack-bound)"
    )


def test_nothing_is_said_of_slower_layers_where_none_is() -> None:
    assert slower_note(MIXED, {"fast": W8}) is None
    assert slower_note(MIXED, {}) is None


def test_one_slower_layer_is_singular_and_many_are_cut() -> None:
    one = slower_note(MIXED, {"slow": W4})
    assert one is not None
    assert one.startswith("1 of 1 layer is slower")
    many = table({f"u{i}": {W32: cost(1), W4: cost(2 + i)} for i in range(8)})
    note = slower_note(many, dict.fromkeys(many.entries, W4))
    assert note is not None
    assert "u7 (" in note
    assert "u2 (" not in note
    assert note.endswith("; and 3 more")


def test_the_bound_of_a_speed_up_by_amdahl() -> None:
    # 10 ms in 32 bits, 2 of them without weights; fastest formats: 2 + 1 + 2 + 2 = 7 ms.
    note = bound_note(MIXED, {"fast": W8})
    assert note is not None
    assert note.startswith("predicted speed-up 1.43x (80%: ")
    assert "at most 1.43x with any of the formats that were offered and 5x if weights" in note
    assert "20% of the 32-bit time is in operations without weights" in note
    assert note.endswith("of the plan's time 14% is memory-bound")


def test_where_everything_reads_weights_there_is_no_such_limit() -> None:
    bare = table({"a": {W32: cost(4), W8: cost(1)}}, other_ms=0)
    note = bound_note(bare, {"a": W8})
    assert note is not None
    assert "if weights cost nothing" not in note
    assert "at most 4x" in note


def test_nothing_is_said_where_nothing_is_predicted() -> None:
    free = table({"a": {W32: cost(0)}}, other_ms=0)
    assert latency_notes(free, {"a": W32}) == []


@pytest.mark.parametrize(
    ("entries", "chosen", "because"),
    [
        pytest.param(
            {"a": {W32: cost(2), W4: DEQUANTIZED}},
            {"a": W4},
            "1 of 1 narrower layers have no kernel for their format in engine",
            id="dequantized",
        ),
        pytest.param(
            {"a": {W32: cost(2), W4: cost(3, "int4", "compute-bound")}},
            {"a": W4},
            "1 are slower with their low-bit kernels, most of them compute-bound",
            id="compute-bound batch",
        ),
        pytest.param(
            {"a": {W32: cost(2)}},
            {"a": W32},
            "every layer stays in 32 bits",
            id="nothing narrower",
        ),
        pytest.param(
            {"a": {W32: cost(2), W8: cost(2)}}, {"a": W8}, "take as long as", id="no faster"
        ),
    ],
)
def test_no_speed_up_is_a_sentence(
    entries: dict[str, dict[Format, UnitCost]], chosen: dict[str, Format], because: str
) -> None:
    note = none_note(table(entries), chosen)
    assert note is not None
    assert note.startswith("no speed-up expected here: ")
    assert because in note
    assert note.endswith("smaller, not faster") == any(fmt != W32 for fmt in chosen.values())
    assert latency_notes(table(entries), chosen)[0] == note


def test_a_faster_plan_does_not_say_so() -> None:
    assert none_note(MIXED, {"fast": W8}) is None
    assert [note.split(" ")[0] for note in latency_notes(MIXED, {"fast": W8})] == ["predicted"]


@pytest.mark.parametrize(("slower", "said"), [(1.0, False), (1.05, False), (3.0, True)])
def test_what_floats_would_take_is_said(slower: float, said: bool) -> None:
    def of(factor: float) -> CostTable:
        return table({"fast": {W32: cost(4), W8: cost(8 * factor)}}, other_ms=0)

    note = floats_note(of(1), of(slower), {"fast": W8})
    assert (note is not None) == said
    assert note is None or "8 ms is with kernels that round" in note
    assert note is None or "up to 24 ms if in all" in note
    assert (note in latency_notes(of(1), {"fast": W8}, of(slower))) == said
