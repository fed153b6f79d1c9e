"""Timing: what one forward pass of several loaded files takes, in interleaved rounds."""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Final

from mixq.batch import Batch
from mixq.export.runtime import Session
from mixq.progress import Progress, silent, track

STAGE: Final = "benchmarking"
WARM_CALLS: Final = 3
"""Before anything counts: a runtime packs weights and grows its buffers in the first ones."""
TURN_S: Final = 0.01
"""A turn of the fastest candidate takes about so long, so that a clock's tick does not matter."""
MOST_CALLS: Final = 20
"""Of one turn."""
TICK_S: Final = 1e-9
"""What the clocks count in."""


@dataclass(frozen=True)
class Turn:
    """What one candidate's calls in one round took, each by itself.

    Attributes:
        wall_s, cpu_s: of the clock, and of the processor in all threads of this process.
    """

    wall_s: tuple[float, ...]
    cpu_s: tuple[float, ...]


@dataclass(frozen=True)
class Timing:
    """All turns of one candidate, in the order of the rounds."""

    turns: tuple[Turn, ...]

    @property
    def latency_s(self) -> float:
        """Median of all calls."""
        return median(s for turn in self.turns for s in turn.wall_s)

    @property
    def latency_p95_s(self) -> float:
        """What 95% of all calls do not exceed (nearest rank)."""
        calls = sorted(s for turn in self.turns for s in turn.wall_s)
        return calls[math.ceil(0.95 * len(calls)) - 1]

    @property
    def cpu_s(self) -> float:
        """Median processor time of all calls."""
        return median(s for turn in self.turns for s in turn.cpu_s)

    def throughput_per_s(self, samples: int) -> float:
        """Samples in a second at the median latency."""
        return samples / self.latency_s

    def ratio(self, base: Timing) -> Ratio:
        """This time over `base`'s, round by round, so that a slow minute slows both.

        Of a turn its median call counts: on a shared machine another process stops one call of
        many for milliseconds, which is no property of either candidate.
        """
        pairs = list(zip(self.turns, base.turns, strict=True))
        return Ratio(
            wall=Spread.of([_quotient(own.wall_s, other.wall_s) for own, other in pairs]),
            cpu=Spread.of([_quotient(own.cpu_s, other.cpu_s) for own, other in pairs]),
        )


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of a number over rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        ordered = sorted(values)
        last = len(ordered) - 1
        return cls(median(ordered), ordered[round(last / 4)], ordered[round(last * 3 / 4)])


@dataclass(frozen=True)
class Ratio:
    """One candidate's time over another's, by the clock and by the processor."""

    wall: Spread
    cpu: Spread


def warm(session: Session, batch: Batch) -> float:
    """Run a session until it is warm; what its last call took [s]."""
    took = 0.0
    for _ in range(WARM_CALLS):
        start = time.perf_counter()
        session.run(batch)
        took = time.perf_counter() - start
    return took


def measure(
    sessions: Mapping[str, Session],
    batch: Batch,
    *,
    repeat: int,
    warm_s: Mapping[str, float],
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Timing]:
    """Time warm sessions side by side.

    In each round every session has one turn, in an order drawn anew. A turn begins with a call
    that does not count, since the caches are full of another candidate's weights, which a
    program that runs one model never sees.

    Args:
        sessions: by name.
        batch: what all of them are run on.
        repeat: rounds.
        warm_s: what a call of each session takes, roughly.
        seed: of the orders.
        progress: is told of the rounds.
    """
    calls = min(max(math.ceil(TURN_S / max(min(warm_s.values()), TICK_S)), 1), MOST_CALLS)
    chance = random.Random(seed)
    turns: dict[str, list[Turn]] = {name: [] for name in sessions}
    with _no_collection():
        for _ in track(range(repeat), STAGE, repeat, progress):
            for name in chance.sample(list(sessions), len(sessions)):
                turns[name].append(_turn(sessions[name], batch, calls))
    return {name: Timing(tuple(own)) for name, own in turns.items()}


def _turn(session: Session, batch: Batch, calls: int) -> Turn:
    session.run(batch)
    wall, cpu = [], []
    for _ in range(calls):
        start, busy = time.perf_counter(), time.process_time()
        session.run(batch)
        cpu.append(time.process_time() - busy)
        wall.append(time.perf_counter() - start)
    return Turn(tuple(wall), tuple(cpu))


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python's garbage collector would strike whoever happens to run."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _quotient(own: Sequence[float], other: Sequence[float]) -> float:
    return median(own) / max(median(other), TICK_S)
