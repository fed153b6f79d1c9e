"""Dominance: what is beaten on bytes, time and layer error goes, and nothing else does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixq.cost.table import CostTable, UnitCost
from mixq.errors import FormatError
from mixq.formats import Format
from mixq.moments.moments import Moments
from mixq.rounding.rounder import Rounder
from mixq.search.dominance import pruned

LAWS = settings(derandomize=True, deadline=None, max_examples=150)
Merits = Mapping[Format, tuple[int, float, float | None]]
"""Bytes, seconds and layer error; None where the unit does not fit the format."""


UNSEEN = cast("Moments", object())


class FakeRounder:
    def __init__(self, merits: Merits) -> None:
        self.merits = merits

    def layer_error(self, unit: str, fmt: Format, moments: Moments | None) -> float:
        assert moments is UNSEEN
        error = self.merits[fmt][2]
        if error is None:
            raise FormatError("it does not fit")
        return error


def kept(merits: Merits) -> tuple[Format, ...]:
    costs = {
        fmt: UnitCost(latency_s=time, weight_bytes=size, kernel="k", reason="r")
        for fmt, (size, time, _) in merits.items()
    }
    table = CostTable(
        hardware="h", runtime="r", threads=1, entries={"a": costs}, other_latency_s=0.0,
        other_bytes=0, peak_activation_bytes=0, runtime_bytes=0,
    )  # fmt: skip
    return pruned("a", tuple(merits), table, cast("Rounder", FakeRounder(merits)), UNSEEN)


def kind(fmt: Format) -> tuple[int, str]:
    return fmt.bits, fmt.activation


def beats(rival: tuple[float, ...], own: tuple[float, ...]) -> bool:
    return all(r <= o for r, o in zip(rival, own, strict=True)) and rival != own


FORMATS = [
    *(Format(bits, size, "zero-point") for bits in (4, 2) for size in (64, 32, 128, 16)),
    Format(32),
    Format(16),
    *(Format(8, size) for size in (64, 32)),
    *(Format(8, None, grid, activation="dynamic") for grid in ("symmetric", "zero-point")),
]
MERITS = st.lists(st.sampled_from(FORMATS), unique=True, min_size=1).flatmap(
    lambda formats: st.fixed_dictionaries(
        {
            fmt: st.tuples(
                st.integers(1, 4),
                st.sampled_from([1e-6, 2e-6, 3e-6]),
                st.none() | st.sampled_from([0.0, 0.1, 0.2, 0.3]),
            )
            for fmt in formats
        }
    )
)


@LAWS
@given(merits=MERITS)
def test_what_is_kept_is_what_nothing_beats_and_the_first_of_each_width(merits: Merits) -> None:
    found = kept(merits)
    first: dict[tuple[int, str], Format] = {}
    for fmt in merits:
        first.setdefault(kind(fmt), fmt)
    measured = {
        fmt: cast("tuple[float, ...]", own) for fmt, own in merits.items() if own[2] is not None
    }
    for fmt in merits:
        beaten = fmt in measured and any(
            beats(rival, measured[fmt])
            for other, rival in measured.items()
            if kind(other) == kind(fmt)
        )
        assert (fmt in found) == (not beaten or fmt == first[kind(fmt)])
    assert list(found) == [fmt for fmt in merits if fmt in found]  # in their order


@LAWS
@given(merits=MERITS)
def test_pruning_twice_is_pruning_once(merits: Merits) -> None:
    once = kept(merits)
    assert kept({fmt: merits[fmt] for fmt in once}) == once


@LAWS
@given(merits=MERITS)
def test_every_best_trade_is_still_there(merits: Merits) -> None:
    """For every format left out, one is kept that is no worse in anything."""
    found = kept(merits)
    for fmt in set(merits) - set(found):
        own = cast("tuple[float, ...]", merits[fmt])
        assert any(
            merits[other][2] is not None and beats(cast("tuple[float, ...]", merits[other]), own)
            for other in found
        )


W64, W32, W128 = (Format(4, size, "zero-point") for size in (64, 32, 128))
TABLE: dict[str, tuple[Merits, tuple[Format, ...]]] = {
    "a-trade": ({W64: (2, 1.0, 0.2), W32: (3, 1.0, 0.1), W128: (1, 1.0, 0.3)}, (W64, W32, W128)),
    "beaten": ({W64: (2, 1.0, 0.2), W32: (3, 1.0, 0.3), W128: (1, 1.0, 0.4)}, (W64, W128)),
    "first-beaten": ({W64: (3, 1.0, 0.3), W32: (2, 1.0, 0.1)}, (W64, W32)),
    "equal-in-all": ({W64: (2, 1.0, 0.2), W32: (2, 1.0, 0.2)}, (W64, W32)),
    "slower": ({W64: (2, 1.0, 0.2), W32: (2, 1.5, 0.2)}, (W64,)),
    "slower-but-smaller": ({W64: (2, 1.0, 0.2), W32: (1, 1.5, 0.2)}, (W64, W32)),
    "does-not-fit": ({W64: (2, 1.0, None), W32: (3, 1.0, None)}, (W64, W32)),
    "another-width": ({Format(8, 64): (9, 9.0, 9.0), W64: (1, 1.0, 0.1)}, (Format(8, 64), W64)),
    "other-activations": (
        {Format(8, 64): (1, 1.0, 0.1), Format(8, activation="dynamic"): (2, 2.0, 0.2)},
        (Format(8, 64), Format(8, activation="dynamic")),
    ),
    "alone": ({Format(32): (4, 1.0, 0.0)}, (Format(32),)),
}  # fmt: skip


@pytest.mark.parametrize(("merits", "expected"), TABLE.values(), ids=TABLE)
def test_what_is_kept(merits: Merits, expected: tuple[Format, ...]) -> None:
    assert kept(merits) == expected
