"""Tiles: which are tried, what they waste, and that more work never counts less."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixq.cost.tiles import LOADING, WHOLE_WAVES, counted_macs, halvings
from mixq.graph.work import Work
from mixq.profiles import load

KERNEL = load("nvidia_a100").runtime().kernels[0]
SIZES = st.integers(1, 9000)


def counted(m: int, n: int, units: int, tile: tuple[int, int] = (128, 128), k: int = 64) -> float:
    kernel = replace(KERNEL, tile_m=tile[0], tile_n=tile[1])
    return counted_macs(kernel, Work("gemm", m=m, n=n, k=k), units)


@pytest.mark.parametrize(
    ("tile", "tried"),
    [
        ((128, 128), [(128, 128), (64, 128), (64, 64), (32, 64), (16, 64)]),
        ((128, 256), [(128, 256), (128, 128), (64, 128), (64, 64), (32, 64), (16, 64)]),
        ((16, 256), [(16, 256), (16, 128), (16, 64)]),
        ((4, 16), [(4, 16)]),
        ((24, 64), [(24, 64), (16, 64)]),
    ],
)
def test_halvings(tile: tuple[int, int], tried: list[tuple[int, int]]) -> None:
    assert list(halvings(*tile)) == tried


def test_whole_waves_lose_nothing() -> None:
    assert counted(1280, 1280, 100) == pytest.approx(1280 * 1280 * 64, rel=1e-12)


def test_half_of_an_empty_wave_is_lost() -> None:
    # 101 tiles of the smallest size on 100 units: the second wave is 1% full.
    waves = WHOLE_WAVES * 2 + (1 - WHOLE_WAVES) * 1.01
    assert counted(16 * 101, 64, 100, (16, 64)) == pytest.approx(
        waves * 100 * 16 * 64 * 64, rel=1e-12
    )


def test_a_small_product_takes_a_small_tile() -> None:
    small, large = (1 + LOADING * (1 / m + 1 / n) for m, n in ((16, 64), (128, 128)))
    assert counted(16, 6400, 100) == pytest.approx(16 * 6400 * 64 * small / large, rel=1e-12)


def test_without_tiles_only_the_work_counts() -> None:
    assert counted(100, 100, 7, (1, 1)) == 100 * 100 * 64
    kernel = replace(KERNEL, tile_m=128, tile_n=128)
    assert counted_macs(kernel, Work("gather", m=5, n=5), 7) == 0


@settings(derandomize=True, deadline=None)
@given(
    m=SIZES, n=SIZES, more=st.integers(1, 500), units=st.integers(1, 132),
    tile=st.sampled_from([(128, 128), (256, 128), (64, 64), (6, 16), (48, 1)]),
)  # fmt: skip
def test_more_never_counts_less_and_never_less_than_the_work(
    m: int, n: int, more: int, units: int, tile: tuple[int, int]
) -> None:
    before = counted(m, n, units, tile)
    assert before >= m * n * 64
    assert counted(m + more, n, units, tile) >= before
    assert counted(m, n + more, units, tile) >= before
    assert counted(m, n, units, tile, k=128) == pytest.approx(2 * before, rel=1e-12)
