"""Two identical commands at the same time: one refuses or both finish, and nothing is torn."""

from __future__ import annotations

from pathlib import Path

import pytest

from .commands import COMMANDS, SEARCH, Stage
from .driver import Task
from .whole import contents, rubbish


@pytest.mark.parametrize("name", ["search", "analyze"])
def test_in_one_folder(stage: Stage, tmp_path: Path, name: str) -> None:
    whole, folder = stage.undisturbed(name), stage.start(name, tmp_path / "both")
    outcomes = stage.zygote.run_all([COMMANDS[name].task(folder)] * 2)
    assert sorted(outcome.status for outcome in outcomes) == [0, 1]
    (refused,) = [outcome for outcome in outcomes if outcome.status == 1]
    assert "is in use by another mixq" in refused.errors[0]
    assert all(outcome.is_clean for outcome in outcomes)
    assert contents(folder) == whole.contents
    assert rubbish(folder) == []


@pytest.mark.parametrize("name", ["export", "apply", "calibrate"])
def test_to_one_file(stage: Stage, tmp_path: Path, name: str) -> None:
    """None of them needs the other's absence: both write the same, each in a folder of its own."""
    whole, folder = stage.undisturbed(name), stage.start(name, tmp_path / "both")
    outcomes = stage.zygote.run_all([COMMANDS[name].task(folder)] * 2)
    assert [outcome.status for outcome in outcomes] == [0, 0]
    assert contents(folder) == whole.contents
    assert rubbish(folder) == []


def test_on_one_study(stage: Stage, tmp_path: Path) -> None:
    whole, folder = stage.undisturbed("search"), stage.start("search", tmp_path / "both")
    storage = ("--storage", f"sqlite:///{folder}/study.db")
    outcomes = stage.zygote.run_all(
        [Task((*SEARCH, *storage, "--output", output), folder) for output in ("one", "other")]
    )
    assert [outcome.status for outcome in outcomes] == [0, 0], outcomes
    for output in ("one", "other"):
        for name in ("plan.json", "plan.weights.safetensors"):
            assert (folder / output / name).read_bytes() == whole.contents[f"run/{name}"]
