"""Candidates: widths, pins and ties of a user, turned into formats of each unit."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixq.errors import UsageError
from mixq.formats import WIDTHS
from mixq.graph.units import WeightUnit
from mixq.search.candidates import default_formats, matching, resolve_pins, resolve_ties


def unit(
    name: str, rows: int = 64, columns: int = 64, aliases: tuple[str, ...] = ()
) -> WeightUnit:
    return WeightUnit(name, (rows, columns), rows, columns, 4, "Linear", aliases)


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
        default_formats(UNITS, [8, width], {})


def test_no_width_at_all() -> None:
    with pytest.raises(UsageError, match="--bits is empty"):
        default_formats(UNITS, [], {})


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
)
def test_formats_shrink_and_start_at_the_widest(
    bits: Sequence[int], rows: int, columns: int, pin: int | None
) -> None:
    units = {"a": unit("a", rows, columns)}
    (formats,) = default_formats(units, bits, {} if pin is None else {"a": pin}).values()
    stored = [units["a"].stored_bytes(fmt) for fmt in formats]
    assert stored == sorted(set(stored), reverse=True)
    assert [fmt.bits for fmt in formats] == sorted({fmt.bits for fmt in formats}, reverse=True)
    if pin is not None:
        assert [fmt.bits for fmt in formats] == [pin]
    else:
        assert formats[0].bits == max(bits)
        assert {fmt.bits for fmt in formats} <= set(bits)


def test_a_unit_too_small_for_a_scale_keeps_the_wide_format() -> None:
    # One weight: an 8-bit code and its 16-bit scale take 3 bytes, 16 bits take 2.
    (formats,) = default_formats({"a": unit("a", 1, 1)}, [32, 16, 8, 4, 2], {}).values()
    assert [fmt.bits for fmt in formats] == [32, 16]
