"""Disks that fill up or fail at any call: one line, no half file, and the same command goes on."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from . import aim
from .commands import Stage
from .disk import can_mount, small_disk
from .fault import NONE, Fault
from .survive import survive


@pytest.mark.parametrize("name", ["search", "export", "calibrate"])
@pytest.mark.parametrize("kind", ["full", "broken"])
def test_from_a_call_on(stage: Stage, tmp_path: Path, name: str, kind: str) -> None:
    whole, draw = stage.undisturbed(name), random.Random(f"{name} {kind}")
    fault = {"full": aim.full_at, "broken": aim.broken_at}[kind]
    numbers = sorted(draw.sample(range(len(whole.outcome.calls) - 1), 3))
    survival = survive(stage, name, [fault(number) for number in numbers], tmp_path / "hurt")
    assert survival.problems == []
    assert survival.hurt >= 1
    for outcome in survival.outcomes:
        assert outcome.status in (0, 1)


def test_files_that_may_not_grow(stage: Stage, tmp_path: Path) -> None:
    faults = [Fault(file_bytes=size) for size in (0, 100, 4000, 100_000)]
    survival = survive(stage, "search", faults, tmp_path / "hurt")
    assert survival.problems == []
    assert [outcome.status for outcome in survival.outcomes] == [1] * 4
    assert all("File too large" in outcome.err for outcome in survival.outcomes)


@pytest.mark.skipif(not can_mount(), reason="mounting a small disk needs root")
@pytest.mark.parametrize("free_bytes", [0, 60_000, 200_000])
def test_a_small_disk(stage: Stage, tmp_path: Path, free_bytes: int) -> None:
    place = small_disk(free_bytes)
    survival = survive(stage, "search", [NONE], tmp_path / "hurt", place=place)
    assert survival.problems == []
    assert survival.outcomes[0].status == 1
    assert "No space left on device" in survival.outcomes[0].err
