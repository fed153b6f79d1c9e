"""Timing: medians of interleaved rounds, and how far the rounds disagree."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from mixq.calibrate.case import Case
from mixq.progress import Progress, silent

TURN_S: Final = 0.002
"""A turn takes about so long, or one call."""
MOST_CALLS: Final = 50
FEWEST_ROUNDS: Final = 5
Clock = Callable[[], float]


@dataclass(frozen=True)
class Timed:
    """One case, timed.

    Attributes:
        rounds_s: seconds of one run in every round.
    """

    case: Case
    rounds_s: tuple[float, ...]

    @property
    def run_s(self) -> float:
        """Median of the rounds."""
        return median(self.rounds_s)

    @property
    def noise(self) -> float:
        """Spread of the rounds about their median: half the range of the middle half, relative.

        Times 1.48 it is the standard deviation of normal noise.
        """
        ordered = sorted(self.rounds_s)
        last = len(ordered) - 1
        middle = ordered[round(last * 3 / 4)] - ordered[round(last / 4)]
        return 1.48 * middle / 2 / self.run_s


def time_cases(
    cases: Sequence[Case],
    *,
    budget_s: float,
    rounds: int,
    clock: Clock = time.process_time,
    wall: Clock = time.perf_counter,
    seed: int = 0,
    stage: str = "timing kernels",
    progress: Progress = silent,
) -> list[Timed]:
    """Time every case once a round, in an order drawn anew.

    Args:
        cases: loaded.
        budget_s: time that may pass; at least `FEWEST_ROUNDS` rounds are made.
        rounds: at most.
        clock: what counts: of the processor, or of the wall where several threads work.
        wall: what the budget is counted in.
        seed: of the orders.
        stage: in words, for `progress`.
        progress: is told of the cases that are done.
    """
    started = wall()
    calls = [_calls(case, clock) for case in cases]
    found: list[list[float]] = [[] for _ in cases]
    chance = random.Random(seed)
    total, done = rounds * len(cases), 0
    progress(stage, 0, total)
    for index in range(rounds):
        for place in chance.sample(range(len(cases)), len(cases)):
            found[place].append(_turn(cases[place], calls[place], clock))
            done += 1
            progress(stage, done, total)
        spent = wall() - started
        if index + 1 >= FEWEST_ROUNDS and spent * (index + 2) / (index + 1) > budget_s:
            break
    if done < total:
        progress(stage, total, total)
    return [Timed(case, tuple(times)) for case, times in zip(cases, found, strict=True)]


def noise_of(timed: Sequence[Timed]) -> float:
    """How far the rounds disagree: the median over cases."""
    return median(item.noise for item in timed)


def _calls(case: Case, clock: Clock) -> int:
    case.run()
    start = clock()
    case.run()
    took = clock() - start
    return min(max(math.ceil(TURN_S / max(took, 1e-6)), 1), MOST_CALLS)


def _turn(case: Case, calls: int, clock: Clock) -> float:
    case.run()  # the caches are full of another case's numbers
    start = clock()
    for _ in range(calls):
        case.run()
    return (clock() - start) / calls
