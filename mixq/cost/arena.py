"""Arena: what an allocator that never gives back holds after a schedule of buffers.

ONNX Runtime takes activations from a BFC ("best fit with coalescing") arena: free pieces are kept
in bins by powers of two, the smallest that fits is cut if it is twice as large as what is asked
for, and where none fits the arena grows by a region, each twice as large as the last (source:
microsoft/onnxruntime, onnxruntime/core/framework/bfc_arena.cc). Only pages that were written are
resident.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

ALIGNMENT: Final = 256
"""kMinAllocationSize of bfc_arena.h [bytes]."""
FIRST_REGION_BYTES: Final = 1 << 20
"""DEFAULT_INITIAL_CHUNK_SIZE_BYTES of ep_arena.h."""
MOST_WASTE_BYTES: Final = 128 << 20
"""DEFAULT_MAX_DEAD_BYTES_PER_CHUNK: a larger rest is always cut off."""


@dataclass(frozen=True, slots=True)
class Buffer:
    """Memory of one value.

    Attributes:
        first: step that writes it.
        last: last step that reads it; at least `first`.
    """

    size_bytes: int
    first: int
    last: int


@dataclass(slots=True)
class _Chunk:
    region: int
    start: int
    size: int
    is_free: bool = True


@dataclass(slots=True)
class _Region:
    size: int
    written: int = 0
    chunks: list[_Chunk] = field(default_factory=list)


class Arena:
    """A BFC arena; nothing is allocated, sizes alone are kept."""

    def __init__(self) -> None:
        self._regions: list[_Region] = []
        self._next = FIRST_REGION_BYTES

    @property
    def regions(self) -> list[tuple[int, int]]:
        """Of every region, in the order of growth: its bytes, and those ever written."""
        return [(region.size, region.written) for region in self._regions]

    @property
    def resident_bytes(self) -> int:
        """Bytes ever written."""
        return sum(region.written for region in self._regions)

    def allocate(self, size_bytes: int) -> _Chunk:
        """A piece of at least so many bytes."""
        size = aligned(size_bytes)
        found = self._smallest(size)
        if found is None:
            self._grow(size)
            found = self._smallest(size)
        assert found is not None
        if found.size >= 2 * size or found.size - size >= MOST_WASTE_BYTES:
            chunks = self._regions[found.region].chunks
            rest = _Chunk(found.region, found.start + size, found.size - size)
            chunks.insert(chunks.index(found) + 1, rest)
            found.size = size
        found.is_free = False
        region = self._regions[found.region]
        region.written = max(region.written, found.start + size)
        return found

    def release(self, chunk: _Chunk) -> None:
        """Give a piece back; it joins its free neighbours."""
        chunk.is_free = True
        region = self._regions[chunk.region]
        joined: list[_Chunk] = []
        for piece in region.chunks:
            if joined and piece.is_free and joined[-1].is_free:
                joined[-1].size += piece.size
            else:
                joined.append(piece)
        region.chunks = joined

    def _smallest(self, size: int) -> _Chunk | None:
        fits = [c for r in self._regions for c in r.chunks if c.is_free and c.size >= size]
        return min(fits, key=lambda c: (c.size, c.region, c.start), default=None)

    def _grow(self, size: int) -> None:
        grown = size > self._next
        while size > self._next:
            self._next *= 2
        index = len(self._regions)
        self._regions.append(_Region(self._next, chunks=[_Chunk(index, 0, self._next)]))
        if not grown:
            self._next *= 2


def aligned(size_bytes: int) -> int:
    """The bytes that a piece takes in the arena."""
    return -(-max(size_bytes, 1) // ALIGNMENT) * ALIGNMENT


def live_peak(buffers: Sequence[Buffer]) -> int:
    """The largest sum of bytes that live in one step."""
    steps = max((buffer.last for buffer in buffers), default=0) + 2
    change = [0] * steps
    for buffer in buffers:
        change[buffer.first] += buffer.size_bytes
        change[buffer.last + 1] -= buffer.size_bytes
    live = peak = 0
    for step in change:
        live += step
        peak = max(peak, live)
    return peak


def packed_peak(buffers: Sequence[Buffer]) -> int:
    """The bytes of one block in which every buffer has its place, first come first served.

    Each goes into the smallest gap that holds it, or behind the last (source:
    microsoft/onnxruntime, onnxruntime/core/framework/mem_pattern_planner.h). At least `live_peak`.
    """
    placed: list[tuple[int, int, int]] = []
    peak = 0
    for buffer in sorted(buffers, key=lambda b: b.first):
        size = aligned(buffer.size_bytes)
        placed = [item for item in placed if item[2] >= buffer.first]
        edge, best, waste = 0, None, 0
        for start, end, _ in placed:
            gap = start - edge
            if gap >= size and (best is None or gap - size < waste):
                best, waste = edge, gap - size
            edge = max(edge, end)
        start = edge if best is None else best
        placed.append((start, start + size, buffer.last))
        placed.sort()
        peak = max(peak, start + size)
    return peak


def replayed(buffers: Sequence[Buffer], kept: Sequence[Buffer] = ()) -> Arena:
    """The arena of a process that has run a schedule twice.

    The first pass takes every buffer by itself; from the second on all but those that are
    `kept` (outputs, which the caller owns) lie in one block of `packed_peak` bytes, which needs a
    region of its own where the first pass left none that is large enough.
    """
    arena = Arena()
    everything = sorted([*buffers, *kept], key=lambda b: b.first)
    live: list[tuple[int, _Chunk]] = []
    for buffer in everything:
        for last, chunk in live:
            if last < buffer.first:
                arena.release(chunk)
        live = [(last, chunk) for last, chunk in live if last >= buffer.first]
        live.append((buffer.last, arena.allocate(buffer.size_bytes)))
    for _, chunk in live:
        arena.release(chunk)
    if buffers:
        arena.allocate(packed_peak(buffers))
        for buffer in kept:
            arena.allocate(buffer.size_bytes)
    return arena
