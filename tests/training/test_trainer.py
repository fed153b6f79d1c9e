"""Schedule: how large each step is and what it learns from."""

from __future__ import annotations

import math

import pytest
import torch

from mixq.training.trainer import EVALUATIONS, WARM_UP, Look, Schedule, State


def test_rate_rises_then_falls_along_half_a_cosine() -> None:
    schedule = Schedule(steps=200, learning_rate=0.5, seed=0)
    rise = round(200 * WARM_UP)
    rates = [schedule.rate(step) for step in range(200)]
    assert rates[:rise] == pytest.approx([0.5 * (step + 1) / rise for step in range(rise)])
    assert rates[rise] == 0.5
    middle = rise + (200 - rise) // 2
    assert rates[middle] == pytest.approx(0.25)
    assert rates[rise:] == sorted(rates[rise:], reverse=True)
    assert 0 < rates[-1] < 0.5 * (1 - math.cos(math.pi / 100))


@pytest.mark.parametrize("steps", [1, 2, 5, 1000])
def test_rate_is_positive_and_bounded(steps: int) -> None:
    schedule = Schedule(steps, 0.1, 0)
    assert all(0 < schedule.rate(step) <= 0.1 for step in range(steps))


def test_every_batch_is_seen_once_a_round() -> None:
    schedule = Schedule(steps=30, learning_rate=0.1, seed=3)
    order = [schedule.batch(step, 5) for step in range(30)]
    rounds = [order[low : low + 5] for low in range(0, 30, 5)]
    assert all(sorted(part) == list(range(5)) for part in rounds)
    assert len({tuple(part) for part in rounds}) > 1
    assert order != [Schedule(30, 0.1, 4).batch(step, 5) for step in range(30)]


@pytest.mark.parametrize("steps", [0, 1, 7, 20, 200, 1003])
def test_looks_end_with_the_last_step(steps: int) -> None:
    schedule = Schedule(steps, 0.1, 0)
    looked = [step for step in range(1, steps + 1) if schedule.is_looked_at(step)]
    assert looked[-1:] == ([steps] if steps else [])
    assert len(looked) <= 2 * EVALUATIONS


def test_best_is_the_earliest_of_the_least() -> None:
    state, number = State(), torch.zeros(1)
    for step, loss in ((0, 3.0), (5, 1.0), (10, 2.0), (15, 1.0)):
        state.step = step
        number.fill_(step)
        state.note(loss, {"a": number})
    assert state.best_look == Look(5, 1.0)
    assert state.best["a"].item() == 5
    assert not state.broken


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_look_that_is_not_finite_ends_the_run(loss: float) -> None:
    state = State()
    state.note(1.0, {})
    state.note(loss, {"a": torch.zeros(1)})
    assert state.broken
    assert [look.loss for look in state.looks] == [1.0]
    assert state.best == {}
