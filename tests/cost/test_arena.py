"""The arena's sizes are those that ONNX Runtime 1.31 logged; the laws hold for any schedule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixq.cost.arena import ALIGNMENT, Arena, Buffer, aligned, live_peak, packed_peak, replayed

MIB = 1 << 20


@st.composite
def buffers(draw: st.DrawFn) -> list[Buffer]:
    found = []
    for _ in range(draw(st.integers(1, 12))):
        first = draw(st.integers(0, 10))
        last = first + draw(st.integers(0, 5))
        found.append(Buffer(draw(st.integers(1, 1 << 24)), first, last))
    return found


def test_a_region_is_twice_as_large_as_the_last_one() -> None:
    # Of EfficientNet-Lite0 at batch 16 in 8 bits: "Extended allocation by ..." in its log.
    arena = Arena()
    sizes = (1638400, 1474560, 41472, 115200, 25690112, 25690112, 77070336, 77070336, 193143552)
    for size in sizes:
        arena.allocate(size)
    # 41472 and 115200 share the third region here; in the log both opened one, as smaller float
    # copies lay between them.
    expected = [2, 2, 4, 32, 32, 128, 128, 256]
    assert [size // MIB for size, _ in arena.regions] == expected


def test_only_what_was_written_is_resident() -> None:
    arena = Arena()
    arena.allocate(3 * MIB)
    assert arena.regions == [(4 * MIB, 3 * MIB)]
    assert arena.resident_bytes == 3 * MIB


def test_a_chunk_is_cut_only_if_it_is_twice_as_large() -> None:
    arena = Arena()
    arena.release(arena.allocate(MIB))
    arena.allocate(600_000)  # takes the whole mebibyte
    arena.allocate(300_000)
    assert len(arena.regions) == 2


def test_free_neighbours_join() -> None:
    arena = Arena()
    pieces = [arena.allocate(ALIGNMENT * 1024) for _ in range(4)]
    for piece in pieces:
        arena.release(piece)
    arena.allocate(MIB)
    assert len(arena.regions) == 1


def test_the_second_pass_takes_a_block_beside_the_first() -> None:
    # CREPE at batch 16: two values of 2 MiB, then a block of both (its log: 2, 2 and 4 MiB).
    chain = [Buffer(2 * MIB, 0, 1), Buffer(2 * MIB, 1, 2), Buffer(MIB, 2, 3)]
    assert packed_peak(chain) == 4 * MIB
    assert replayed(chain).regions == [(2 * MIB, 2 * MIB), (2 * MIB, 2 * MIB), (4 * MIB, 4 * MIB)]


@given(buffers())
def test_the_largest_buffer_is_a_lower_bound_and_the_sum_an_upper_one(found: list[Buffer]) -> None:
    assert max(b.size_bytes for b in found) <= live_peak(found) <= sum(b.size_bytes for b in found)


@given(buffers())
def test_a_block_holds_what_lives_together(found: list[Buffer]) -> None:
    assert live_peak(found) <= packed_peak(found) <= sum(aligned(b.size_bytes) for b in found)
    assert replayed(found).resident_bytes >= packed_peak(found)


@given(buffers(), st.integers(1, 1 << 24), st.integers(0, 15), st.integers(0, 5))
def test_one_more_buffer_never_lowers_what_lives(
    found: list[Buffer], size: int, first: int, steps: int
) -> None:
    assert live_peak([*found, Buffer(size, first, first + steps)]) >= live_peak(found)


@given(buffers(), st.integers(1, 16))
def test_what_lives_grows_with_the_batch(found: list[Buffer], batch: int) -> None:
    scaled = [Buffer(b.size_bytes * batch, b.first, b.last) for b in found]
    assert live_peak(scaled) == batch * live_peak(found)


@pytest.mark.parametrize(("size", "taken"), [(1, 256), (256, 256), (257, 512)])
def test_sizes_are_rounded_up(size: int, taken: int) -> None:
    assert aligned(size) == taken
