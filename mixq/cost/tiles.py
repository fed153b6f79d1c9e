"""Tiles: what of a product's time goes to blocks that are not full and units that have none."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from mixq.graph.work import Work
from mixq.profiles import Kernel

LEAST_TILE: Final = (16, 64)
"""Rows and columns below which no library of tensor-core kernels halves a tile."""
LOADING: Final = 24.0
"""Rows of a tile that take as long to load as the tile's arithmetic on one of its columns.

A tile of m x n loads m + n numbers for m * n products, so that small tiles compute slower, by
1 + LOADING * (1/m + 1/n). Of 16, 24, 32 and 64 this explained int8 CUTLASS and fp16 cuBLAS on A100
and H100 best (benchmarks/cost_published.py)."""
WHOLE_WAVES: Final = 0.5
"""Share of the waste of a last wave that is really lost: the other units have started on the next
call or a part of a tile by then. Half came nearest, between none and all."""


def counted_macs(kernel: Kernel, work: Work, units: int) -> float:
    """Multiply-accumulates that the units could do at full speed while the product runs.

    Libraries choose among tiles: large ones compute faster and leave units idle where the product
    is small. The best of the kernel's tile and its halvings is counted, so that more rows or
    columns never count less.

    Args:
        kernel: with its largest tile.
        work: the product.
        units: that compute tiles side by side.
    """
    if work.macs == 0 or kernel.tile_m == kernel.tile_n == 1:
        return float(work.macs)
    largest = _loading(kernel.tile_m, kernel.tile_n)
    return min(
        _wave_macs(m, n, work, units) * _loading(m, n) / largest
        for m, n in halvings(kernel.tile_m, kernel.tile_n)
    )


def halvings(tile_m: int, tile_n: int) -> Iterator[tuple[int, int]]:
    """The tile and the smaller ones: its longer side halved, the rows' where they are alike."""
    yield tile_m, tile_n
    while tile_m > LEAST_TILE[0] or tile_n > LEAST_TILE[1]:
        if tile_m > LEAST_TILE[0] and (tile_m >= tile_n or tile_n <= LEAST_TILE[1]):
            tile_m = max(LEAST_TILE[0], tile_m // 2)
        else:
            tile_n = max(LEAST_TILE[1], tile_n // 2)
        yield tile_m, tile_n


def _wave_macs(tile_m: int, tile_n: int, work: Work, units: int) -> float:
    tiles = math.ceil(work.m / tile_m) * math.ceil(work.n / tile_n) * work.groups
    waves = tiles / units
    counted = WHOLE_WAVES * math.ceil(waves) + (1 - WHOLE_WAVES) * max(1.0, waves)
    return counted * units * tile_m * tile_n * work.k * work.repeats


def _loading(tile_m: int, tile_n: int) -> float:
    return 1 + LOADING * (1 / tile_m + 1 / tile_n)
