"""The sweep orders its levels whatever a neighbour does, and reads what Linux says of caches."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from mixq.calibrate.sweep import ASSUMED, cache_levels, sweep

LEVELS = (("L2", 1 << 16, True), ("L3", 1 << 18, False))


@pytest.mark.parametrize("threads", [1, 2])
def test_levels_are_ordered(threads: int) -> None:
    memory = sweep(threads, levels=LEVELS)
    rates = [*(level.core_bytes_per_s for level in memory.caches), memory.core_bytes_per_s]
    assert rates == sorted(rates, reverse=True)
    assert memory.bytes_per_s >= memory.core_bytes_per_s > 0


def test_a_clock_that_stands_still_is_survived() -> None:
    memory = sweep(1, levels=LEVELS, clock=lambda: 0.0)
    assert memory.core_bytes_per_s > 0


def test_a_slow_cache_is_put_right() -> None:
    ticks = itertools.count()
    memory = sweep(1, levels=LEVELS, clock=lambda: next(ticks) ** 2 * 1e-3)
    rates = [level.core_bytes_per_s for level in memory.caches]
    assert rates == sorted(rates, reverse=True)


def written(folder: Path, index: int, **facts: str) -> None:
    own = folder / f"index{index}"
    own.mkdir()
    for name, text in facts.items():
        (own / name).write_text(f"{text}\n", encoding="ascii")


def test_caches_are_read(tmp_path: Path) -> None:
    written(tmp_path, 0, type="Data", level="1", size="48K", shared_cpu_list="0")
    written(tmp_path, 1, type="Instruction", level="1", size="32K", shared_cpu_list="0")
    written(tmp_path, 2, type="Unified", level="2", size="1024K", shared_cpu_list="0")
    written(tmp_path, 3, type="Unified", level="3", size="32M", shared_cpu_list="0-7")
    assert cache_levels(tmp_path) == (("L2", 1 << 20, True), ("L3", 32 << 20, False))


@pytest.mark.parametrize("size", ["", "big", "K"])
def test_caches_that_are_not_told_are_assumed(size: str, tmp_path: Path) -> None:
    written(tmp_path, 0, type="Unified", level="2", size=size, shared_cpu_list="0")
    assert cache_levels(tmp_path) == ASSUMED
