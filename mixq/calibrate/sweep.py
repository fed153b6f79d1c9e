"""Sweep: bandwidth of each level of this machine's memory, by one core and by several."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

CACHES: Final = Path("/sys/devices/system/cpu/cpu0/cache")
"""Where Linux describes them (Documentation/ABI/testing/sysfs-devices-system-cpu)."""
ASSUMED: Final = (("L2", 1 << 20, True), ("L3", 16 << 20, False))
"""Name, bytes, private: what most processors have, where the system does not tell."""
REPEATS: Final = 7
TURN_S: Final = 0.01
MOST_BYTES: Final = 256 << 20


@dataclass(frozen=True)
class Level:
    """One level, the smallest first.

    Attributes:
        size_bytes: of one core if it is private; 0 for the memory.
        core_bytes_per_s: what one core draws of it.
    """

    name: str
    size_bytes: int
    private: bool
    core_bytes_per_s: float


@dataclass(frozen=True)
class Memory:
    """Caches and memory.

    Attributes:
        bytes_per_s: of the memory, with all threads that were asked for at work.
    """

    caches: tuple[Level, ...]
    core_bytes_per_s: float
    bytes_per_s: float


def cache_levels(folder: Path = CACHES) -> tuple[tuple[str, int, bool], ...]:
    """Name, bytes and whether it is private of every cache above the first level."""
    found = []
    for index in sorted(folder.glob("index*")):
        try:
            kind = (index / "type").read_text(encoding="ascii").strip()
            level = int((index / "level").read_text(encoding="ascii"))
            size = (index / "size").read_text(encoding="ascii").strip()
            shared = (index / "shared_cpu_list").read_text(encoding="ascii").strip()
            size_bytes = int(size.rstrip("KM")) << {"K": 10, "M": 20}.get(size[-1:], 0)
        except (OSError, ValueError):
            continue
        if kind != "Instruction" and level >= 2:
            found.append((f"L{level}", size_bytes, shared.isdigit()))
    return tuple(found) or ASSUMED


def sweep(
    threads: int,
    *,
    levels: tuple[tuple[str, int, bool], ...] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Memory:
    """Measure every level by copies that half fill it, and the memory by one of four times all.

    A level is never slower than one further away: what a busy neighbour makes of a measurement is
    put right here, since a profile must be ordered.

    Args:
        threads: that draw on the memory together.
        levels: as `cache_levels` gives them.
        clock: of the wall.
    """
    known = levels if levels is not None else cache_levels()
    last = known[-1][1]
    beyond = min(max(4 * last, 32 << 20), MOST_BYTES)
    memory = _copied_per_s(beyond, clock)
    rates = [
        max(_copied_per_s(size // 2, clock), _read_per_s(size // 2, clock)) for _, size, _ in known
    ]
    nearest = memory
    caches: list[Level] = []
    for (name, size, private), rate in reversed(list(zip(known, rates, strict=True))):
        nearest = max(nearest, rate)
        caches.insert(0, Level(name, size, private, nearest))
    together = memory if threads == 1 else max(memory, _together(beyond, threads, clock))
    return Memory(tuple(caches), memory, together)


def _copied_per_s(total: int, clock: Callable[[], float]) -> float:
    """Bytes read and written in a second by a copy whose two ends take `total` bytes."""
    source = np.ones(max(total // 16, 1024))
    target = np.empty_like(source)
    return _rate(lambda: np.copyto(target, source), 2 * source.nbytes, clock)


def _read_per_s(total: int, clock: Callable[[], float]) -> float:
    """Bytes read in a second by a sum of products of an array with itself."""
    source = np.ones(max(total // 4, 1024), np.float32)
    return _rate(lambda: np.dot(source, source), source.nbytes, clock)


def _rate(step: Callable[[], object], moved: int, clock: Callable[[], float]) -> float:
    step()
    start = clock()
    step()
    calls = max(1, min(int(TURN_S / max(clock() - start, 1e-7)), MOST_BYTES // moved))
    times = []
    for _ in range(REPEATS):
        start = clock()
        for _ in range(calls):
            step()
        times.append((clock() - start) / calls)
    # The best: a neighbour can only slow a copy, and kernels' own share of it is fitted.
    return moved / max(min(times), 1e-9)


def _together(total: int, threads: int, clock: Callable[[], float]) -> float:
    """Bytes in a second of copies that run side by side; numpy lets go of Python's lock."""
    rates = [0.0] * threads

    def work(index: int) -> None:
        rates[index] = _copied_per_s(total // threads, clock)

    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(rates)
