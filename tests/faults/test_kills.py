"""Killed at calls that change files: the same command goes on as if nothing had been.

`benchmarks/faults.py` does the same with more of everything, and at random moments.
"""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from mixq.plan import Plan

from . import aim
from .commands import COMMANDS, Stage
from .fault import Fault
from .survive import survive
from .whole import damaged

KILLS = 5


@pytest.mark.parametrize("name", ["search", "analyze", "export", "apply", "calibrate"])
def test_killed_again_and_again(stage: Stage, tmp_path: Path, name: str) -> None:
    """By kill -9, Ctrl-C and SIGTERM, each run after the other's remains."""
    whole, draw = stage.undisturbed(name), random.Random(name)
    # So early that every run gets there, however much the ones before have left for it.
    total = len(whole.outcome.calls)
    numbers = draw.sample(range(min(total, max(total // 6, KILLS))), KILLS)
    faults = [aim.killed_at(number, draw) for number in numbers]
    survival = survive(stage, name, faults, tmp_path / "hurt")
    assert survival.problems == []
    assert survival.hurt == KILLS


def test_ctrl_c_says_how_to_go_on(stage: Stage, tmp_path: Path) -> None:
    call = stage.undisturbed("analyze").outcome.calls.index("rename run/run.json")
    fault = Fault(signal=signal.SIGINT, call=call)
    (outcome,) = survive(stage, "analyze", [fault], tmp_path / "hurt").outcomes
    assert outcome.status == 130
    assert outcome.errors[0].startswith("error: interrupted")
    assert outcome.out == ""


def test_killed_between_the_weights_and_the_plan(stage: Stage, tmp_path: Path) -> None:
    """The plan that was there keeps its weights until the new one is in place."""
    name, folder = "search again", tmp_path / "hurt"
    whole = stage.undisturbed(name)
    call = whole.outcome.calls.index("rename run/plan.json")
    assert "rename run/plan.weights.safetensors" in whole.outcome.calls[:call]
    stage.start(name, folder)
    before = Plan.load(folder / "run" / "plan.json")
    fault = Fault(signal=signal.SIGKILL, call=call)
    outcome = stage.zygote.run(COMMANDS[name].task(folder, fault))
    assert outcome.status == -signal.SIGKILL
    assert Plan.load(folder / "run" / "plan.json") == before
    assert damaged(folder) == []
    weights = (folder / "run" / "plan.weights.safetensors").read_bytes()
    assert weights == whole.contents["run/plan.weights.safetensors"]  # the next plan's already
    survival = survive(stage, name, [fault], folder)
    assert survival.problems == []
    assert survival.hurt == 1
