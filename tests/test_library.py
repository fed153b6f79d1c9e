"""The library as its users meet it: the public names, and the quickstart from start to end."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import mixq
from mixq.plan_check import check_plan

ROOT = Path(__file__).resolve().parents[1]


def test_every_public_name_is_there() -> None:
    for name in mixq.__all__:
        assert getattr(mixq, name) is not None
    assert set(mixq.__all__) <= set(dir(mixq))
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        _ = mixq.serach


def test_search_is_a_room_and_a_call() -> None:
    room = importlib.import_module("mixq.search")
    function = importlib.import_module("mixq.search.call").search
    assert isinstance(room, ModuleType)
    assert vars(mixq)["search"] is room
    assert callable(room)
    assert room.call.search is function


def test_importing_is_light_until_something_is_used() -> None:
    code = """
import sys, json, mixq
light = [name for name in ("torch", "optuna", "scipy") if name in sys.modules]
mixq.Format(8), mixq.MixqError
light += [name for name in ("torch", "optuna", "scipy") if name in sys.modules]
mixq.search
light += [name for name in ("torch", "optuna", "scipy") if name in sys.modules]
print(json.dumps(light))
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(done.stdout) == []


def test_quickstart(tmp_path: Path) -> None:
    script = ROOT / "examples" / "quickstart.py"
    done = subprocess.run(
        [sys.executable, "-W", "error", script, tmp_path],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    plan = mixq.Plan.load(tmp_path / "plan.json")
    assert plan.predicted.compression >= 6
    check_plan(plan)
    size = f"{plan.predicted.weight_bytes:,}"
    assert f"{size} bytes, predicted {size}" in done.stdout
    accuracies = [
        line.rpartition(" ")[2] for line in done.stdout.splitlines() if ": accuracy" in line
    ]
    assert len(accuracies) == 3
    assert accuracies[1] == accuracies[2]
