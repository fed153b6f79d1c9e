"""Killed at 20 random moments and resumed: no trial is lost, and the plan is the same."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState

from mixq.search.study.storage import JOURNAL, open_storage

from .searches import complete, measured, plan_of, searches, study_in, until

KILLS = 20


def tells(folder: Path) -> int:
    """Whole lines of the journal that complete a trial."""
    journal = folder / JOURNAL
    lines = journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []
    return sum(b'"state": 1' in line or b'"state":1' in line for line in lines)


def trials(folder: Path, copy: Path) -> dict[int, tuple[str, tuple[float, ...]]]:
    """The complete trials of a folder, read from a copy of its journal."""
    if not (folder / JOURNAL).exists():
        return {}
    shutil.copyfile(folder / JOURNAL, copy / JOURNAL)
    storage = open_storage(copy, None)
    return complete(study_in(storage)) if (copy / JOURNAL).stat().st_size > 200 else {}


@pytest.mark.parametrize("sampler", ["mixq", pytest.param("tpe", marks=pytest.mark.slow)])
def test_killed_and_resumed(tmp_path: Path, sampler: str) -> None:
    whole, killed, copy = tmp_path / "whole", tmp_path / "killed", tmp_path / "copy"
    copy.mkdir()
    draw = random.Random(sampler)
    options = {"trials": 24, "sampler": sampler}
    kept: dict[int, tuple[str, tuple[float, ...]]] = {}
    kills, grown, torn = 0, 0, 0
    with searches() as server:
        assert server.status(server.start(whole, options)) == 0
        expected = trials(whole, copy)
        while kills < KILLS:
            known = measured(killed)
            process = server.start(killed, options, pause_s=0.03)
            further = draw.choice((None, 0, 1))
            if further is None or len(kept) == len(expected):  # before anything is measured
                time.sleep(draw.random() * 0.2)
            else:
                aim = len(kept) + further
                until(lambda aim=aim: tells(killed) >= aim)  # type: ignore[misc]
                time.sleep(draw.random() * 0.04)
            os.kill(process, signal.SIGKILL)
            kills += server.status(process) == -signal.SIGKILL
            found = trials(killed, copy)
            assert found.items() >= kept.items()  # no trial is lost
            finished = [name for name, _ in kept.values()]
            assert not set(measured(killed)[len(known) :]) & set(finished)  # nor measured again
            grown += len(found) > len(kept)
            kept = found
            if kept and draw.random() < 0.4:  # as if it had come while a line was being written
                torn += 1
                with (killed / JOURNAL).open("ab") as journal:
                    journal.write(b'{"op_code":4,"worker_id":"a'[: draw.randrange(1, 28)])
        assert server.status(server.start(killed, options)) == 0
    assert grown >= 4
    assert torn >= 2
    assert plan_of(killed).read_bytes() == plan_of(whole).read_bytes()
    found = trials(killed, copy)
    assert sorted(found.values()) == sorted(expected.values())
    states = {trial.state for trial in study_in(open_storage(copy, None)).trials}
    assert states == {TrialState.COMPLETE, TrialState.FAIL}
