"""Interleaved timing, on a clock that the candidates move."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from mixq.batch import Batch
from mixq.bench import timing
from mixq.bench.timing import MOST_CALLS, Spread, Timing, Turn, measure, warm

BATCH = torch.zeros(1)


class Clock:
    """Time that passes only where a session says so; the processor is busy half of it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.calls: list[str] = []

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return self.now / 2


class Session:
    """A call takes as long as `cost` says of the number of calls so far."""

    def __init__(self, name: str, clock: Clock, cost: Callable[[int], float]) -> None:
        self.name, self.clock, self.cost = name, clock, cost

    def run(self, batch: Batch) -> dict[str, Tensor]:
        self.clock.now += self.cost(len(self.clock.calls))
        self.clock.calls.append(self.name)
        return {}

    def close(self) -> None:
        pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    ours = Clock()
    monkeypatch.setattr(timing, "time", ours)
    return ours


def timed(clock: Clock, costs: Mapping[str, float], repeat: int = 8) -> dict[str, Timing]:
    def cost(seconds: float) -> Callable[[int], float]:
        return lambda _: seconds

    sessions = {name: Session(name, clock, cost(seconds)) for name, seconds in costs.items()}
    return measure(sessions, BATCH, repeat=repeat, warm_s=costs)


def test_times_and_ratios_are_those_of_the_clock(clock: Clock) -> None:
    done = timed(clock, {"fp32": 0.5, "plan": 0.125})
    assert done["plan"].latency_s == 0.125
    assert done["plan"].latency_p95_s == 0.125
    assert done["plan"].cpu_s == 0.0625
    assert done["plan"].throughput_per_s(4) == 32
    ratio = done["plan"].ratio(done["fp32"])
    assert ratio.wall == ratio.cpu == Spread(0.25, 0.25, 0.25)


def test_every_candidate_has_one_turn_in_every_round(clock: Clock) -> None:
    costs = {"a": 0.5, "b": 0.25, "c": 1.0}
    timed(clock, costs, repeat=20)
    # A turn is one call that does not count and one that does, as all are slow.
    turns = clock.calls[::2]
    assert turns == clock.calls[1::2]
    rounds = [tuple(turns[start : start + 3]) for start in range(0, 60, 3)]
    assert all(set(own) == set(costs) for own in rounds)
    assert len(set(rounds)) > 3, "the order is drawn anew"


def test_the_same_seed_gives_the_same_order(clock: Clock) -> None:
    timed(clock, {"a": 1.0, "b": 1.0, "c": 1.0})
    first, clock.calls = clock.calls, []
    timed(clock, {"a": 1.0, "b": 1.0, "c": 1.0})
    assert clock.calls == first


@pytest.mark.parametrize(
    ("fastest", "calls"),
    [(1.0, 1), (0.011, 1), (0.004, 3), (1e-5, MOST_CALLS), (0.0, MOST_CALLS)],
    ids=["slow", "just-above", "some", "fast", "no-time-at-all"],
)
def test_a_turn_is_long_enough_to_be_timed(clock: Clock, fastest: float, calls: int) -> None:
    done = timed(clock, {"fp32": 2.0, "plan": fastest}, repeat=1)
    for own in done.values():
        assert [len(turn.wall_s) for turn in own.turns] == [calls]


def test_a_machine_that_slows_down_slows_both(clock: Clock) -> None:
    """Rounds get slower and slower, and the ratio stays what it is."""
    repeat = 40

    def drifting(seconds: float) -> Callable[[int], float]:
        # Four calls a round: slowness changes between rounds, not within.
        return lambda calls: seconds * (1 + calls // 4)

    sessions = {
        name: Session(name, clock, drifting(s)) for name, s in (("fp32", 1.0), ("plan", 0.5))
    }
    done = measure(sessions, BATCH, repeat=repeat, warm_s={"fp32": 1.0, "plan": 0.5})
    assert done["plan"].ratio(done["fp32"]).wall == Spread(0.5, 0.5, 0.5)
    latencies = [turn.wall_s[0] for turn in done["fp32"].turns]
    assert all(later > earlier for earlier, later in pairwise(latencies))


def test_a_call_that_another_process_stopped_is_no_ratio() -> None:
    def turn(*wall_s: float) -> Turn:
        return Turn(wall_s, wall_s)

    base = Timing((turn(1, 1, 1), turn(1, 1, 1)))
    own = Timing((turn(2, 2, 90), turn(2, 2, 2)))
    assert own.ratio(base).wall == Spread(2, 2, 2)
    assert own.latency_s == 2
    assert own.latency_p95_s == 90, "but it is one of the slowest calls"


@pytest.mark.parametrize(
    ("calls", "p95"),
    [([3.0], 3.0), ([float(n) for n in range(1, 101)], 95.0), ([1.0] * 19 + [9.0], 1.0)],
    ids=["one", "hundred", "twenty"],
)
def test_the_95th_percentile_is_the_nearest_rank(calls: list[float], p95: float) -> None:
    assert Timing((Turn(tuple(calls), tuple(calls)),)).latency_p95_s == p95


def test_latency_is_the_median_call_and_never_the_best() -> None:
    timing = Timing((Turn((1, 2, 9), (1, 1, 5)), Turn((3, 4, 8), (2, 3, 4))))
    assert timing.latency_s == 3.5
    assert timing.cpu_s == 2.5
    assert timing.throughput_per_s(7) == 2


def test_warm_says_what_a_call_takes_once_it_is_warm(clock: Clock) -> None:
    cold_first = Session("a", clock, lambda calls: 8.0 if calls == 0 else 0.25)
    assert warm(cold_first, BATCH) == 0.25
