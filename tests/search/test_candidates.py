"""Candidates: widths, pins and ties of a user, turned into formats of each unit."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixq.errors import UsageError
from mixq.formats import WIDTHS, Format
from mixq.graph.units import WeightUnit
from mixq.search.candidates import candidate_formats, matching, resolve_pins, resolve_ties
from mixq.search.palette import Palette


def unit(
    name: str, rows: int = 64, columns: int = 64, aliases: tuple[str, ...] = ()
) -> WeightUnit:
    return WeightUnit(name, (rows, columns), rows, columns, 4, "Linear", aliases)


def reads(_: WeightUnit, __: Format) -> bool:
    return True


UNITS = {
    u.name: u
    for u in (
        unit("layer.0.query.weight"),
        unit("layer.0.key.weight"),
        unit("layer.1.query.weight"),
        unit("embed.weight", aliases=("head.weight",)),
        unit("odd[0].weight"),
    )
}


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("layer.*", 3),
        ("*.query.weight", 2),
        ("layer.0.*", 2),
        ("layer.?.key.weight", 1),
        ("head.weight", 1),
        ("*", 5),
        ("odd[[]0].weight", 1),
    ],
)
def test_patterns(pattern: str, count: int) -> None:
    assert len(matching(UNITS, pattern, "--pin")) == count


@pytest.mark.parametrize("pattern", ["query", "LAYER.*", "", "layer.0", "odd[0].weight"])
def test_patterns_match_whole_names(pattern: str) -> None:
    with pytest.raises(UsageError, match="matches none of the 5 units"):
        matching(UNITS, pattern, "--pin")


def test_a_typo_gets_near_names() -> None:
    with pytest.raises(UsageError, match=r"near ones are embed\.weight"):
        matching(UNITS, "embde.weight", "--tie")


def test_the_last_pin_wins() -> None:
    pins = resolve_pins(UNITS, {"layer.*": 4, "layer.0.key.weight": 8})
    assert pins == {
        "layer.0.query.weight": 4, "layer.0.key.weight": 8, "layer.1.query.weight": 4
    }  # fmt: skip
    assert set(resolve_pins(UNITS, {"head.weight": 2})) == {"embed.weight"}


@pytest.mark.parametrize("width", [0, -8, 3, 64, 8.5])
def test_unknown_widths(width: int) -> None:
    with pytest.raises(UsageError, match="widths are 32, 16, 8, 4, 2"):
        resolve_pins(UNITS, {"*": width})
    with pytest.raises(UsageError, match="widths are 32, 16, 8, 4, 2"):
        candidate_formats(UNITS, Palette([8, width]), {}, reads)


def test_no_width_at_all() -> None:
    with pytest.raises(UsageError, match="--bits is empty"):
        candidate_formats(UNITS, Palette([]), {}, reads)


def test_ties() -> None:
    assert resolve_ties(UNITS, ["layer.0.*", "*.query.weight"]) == [
        ["layer.0.query.weight", "layer.0.key.weight"],
        ["layer.0.query.weight", "layer.1.query.weight"],
    ]
    assert resolve_ties(UNITS, []) == []
    with pytest.raises(UsageError, match=r"matches only embed\.weight"):
        resolve_ties(UNITS, ["embed*"])


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    bits=st.lists(st.sampled_from(WIDTHS), min_size=1, max_size=7),
    rows=st.integers(1, 70),
    columns=st.integers(1, 200),
    pin=st.none() | st.sampled_from(WIDTHS),
    sizes=st.lists(st.none() | st.sampled_from([16, 32, 64, 128]), min_size=1, unique=True),
)
def test_widths_shrink_and_start_at_the_widest(
    bits: Sequence[int], rows: int, columns: int, pin: int | None, sizes: Sequence[int | None]
) -> None:
    units = {"a": unit("a", rows, columns)}
    palette, pins = Palette(bits, sizes), {} if pin is None else {"a": pin}
    (formats,) = candidate_formats(units, palette, pins, reads).values()
    widths = list(dict.fromkeys(fmt.bits for fmt in formats))
    by_width = {
        width: [units["a"].stored_bytes(fmt) for fmt in formats if fmt.bits == width]
        for width in widths
    }
    assert [fmt.bits for fmt in formats] == [w for w in widths for _ in by_width[w]]
    assert widths == sorted(widths, reverse=True)
    for width, stored in by_width.items():
        wider = [size for other in widths if other > width for size in by_width[other]]
        assert max(stored) < min(wider, default=1 << 62)
        assert len(set(stored)) == len(stored)  # two ways to take the same bytes are one
        whole = [fmt for fmt in formats if fmt.bits == width and (fmt.group_size or 0) >= columns]
        assert len(whole) <= 1
    if pin is not None:
        assert widths == [pin]
    else:
        assert formats[0].bits == max(bits)
        assert set(widths) <= set(bits)


def test_a_unit_too_small_for_a_scale_keeps_the_wide_format() -> None:
    # One weight: an 8-bit code and its 16-bit scale take 3 bytes, 16 bits take 2.
    palette = Palette([32, 16, 8, 4, 2])
    (formats,) = candidate_formats({"a": unit("a", 1, 1)}, palette, {}, reads).values()
    assert [fmt.bits for fmt in formats] == [32, 16]


FEWER_COLUMNS: dict[int, list[str]] = {
    16: ["w4g64-zp"],
    32: ["w4g64-zp"],
    48: ["w4g64-zp", "w4g32-zp"],
    96: ["w4g64-zp", "w4g32-zp", "w4g128-zp"],
    64: ["w4g64-zp", "w4g32-zp"],
    130: ["w4g64-zp", "w4g32-zp", "w4g128-zp"],
}


@pytest.mark.parametrize(("columns", "expected"), FEWER_COLUMNS.items(), ids=str)
def test_groups_beyond_the_columns_are_one_and_the_same(columns: int, expected: list[str]) -> None:
    units = {"a": unit("a", 64, columns)}
    (formats,) = candidate_formats(units, Palette([4], method="rtn"), {}, reads).values()
    assert [fmt.name for fmt in formats] == expected


def test_each_unit_gets_what_the_runtime_reads_of_it() -> None:
    def only_keys(given: WeightUnit, fmt: Format) -> bool:
        return "key" in given.name and fmt.grid == "signed"

    palette = Palette([4], [64], method="rtn")
    formats = candidate_formats(UNITS, palette, {}, only_keys)
    assert {name: found[0].name for name, found in formats.items()} == {
        **dict.fromkeys(UNITS, "w4g64-affine"), "layer.0.key.weight": "w4g64-signed"
    }  # fmt: skip
