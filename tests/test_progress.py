"""Progress is told the steps as they are finished."""

from __future__ import annotations

import pytest

from mixq.progress import silent, track


class Log:
    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int]] = []

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.calls.append((stage, done, total))


@pytest.mark.parametrize(
    ("items", "total", "done", "expected"),
    [
        ("abc", 3, 0, [0, 1, 2, 3]),
        ("c", 3, 2, [2, 3]),
        ("", 0, 0, [0]),
        ("", 3, 3, [3]),
    ],
    ids=["fresh", "resumed", "nothing", "finished"],
)
def test_track(items: str, total: int, done: int, expected: list[int]) -> None:
    log = Log()
    assert list(track(items, "stage", total, log, done=done)) == list(items)
    assert log.calls == [("stage", step, total) for step in expected]


def test_a_step_counts_when_it_is_finished() -> None:
    log = Log()
    steps = track("ab", "stage", 2, log)
    next(steps)
    assert [done for _, done, _ in log.calls] == [0]
    next(steps)
    assert [done for _, done, _ in log.calls] == [0, 1]


def test_an_error_in_a_step_is_not_counted() -> None:
    log = Log()
    steps = track([1, 0], "stage", 2, log)
    with pytest.raises(ZeroDivisionError):
        sum(1 / step for step in steps)
    assert [done for _, done, _ in log.calls] == [0, 1]


def test_silent_returns_nothing() -> None:
    silent("stage", 1, 2)
