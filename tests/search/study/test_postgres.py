"""Four processes on one PostgreSQL study: every plan once, and the plan of one process alone."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import TrialState
from sqlalchemy.exc import DBAPIError

from mixq.search.study import storage as storages
from mixq.search.study.storage import open_storage
from mixq.search.study.study import LOST_CLAIM, OUTCOME

from .postgres import postgres, programs
from .searches import Searches, complete, measured, plan_of, searches, study_in, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        programs() is None,
        reason="PostgreSQL is not installed; on Debian: apt-get install postgresql",
    ),
]
OPTIONS = {"trials": 24}


@pytest.fixture(scope="module")
def server() -> Iterator[Searches]:
    with searches() as started:
        yield started


@pytest.fixture
def url() -> Iterator[str]:
    with postgres() as started:
        yield started


@pytest.fixture(scope="module")
def alone(server: Searches, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one process, with a journal of its own."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert server.status(server.start(folder, OPTIONS)) == 0
    return folder


def running(study: Study) -> int:
    return len(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))


def expected_of(folder: Path) -> list[tuple[str, tuple[float, ...]]]:
    return sorted(complete(study_in(open_storage(folder, None))).values())


@contextmanager
def opened(url: str) -> Iterator[RDBStorage]:
    storage = open_storage(None, url)
    assert isinstance(storage, RDBStorage)
    try:
        yield storage
    finally:
        storage.engine.dispose()


@pytest.mark.parametrize("sampler", ["mixq", "tpe"])
def test_four_processes_share_the_work(
    server: Searches, url: str, tmp_path: Path, sampler: str
) -> None:
    options = {**OPTIONS, "sampler": sampler}
    alone = tmp_path / "alone"
    assert server.status(server.start(alone, options)) == 0
    folders = [tmp_path / f"run{index}" for index in range(4)]
    processes = [server.start(folder, options, storage=url, pause_s=0.1) for folder in folders]
    assert [server.status(process) for process in processes] == [0] * 4

    expected = expected_of(alone)
    with opened(url) as storage:
        study = study_in(storage)
        assert sorted(complete(study).values()) == expected  # none is lost, none is there twice
        others = [trial for trial in study.trials if trial.state != TrialState.COMPLETE]
        assert {trial.user_attrs.get(OUTCOME) for trial in others} <= {LOST_CLAIM}
    whole = Counter(name for folder in folders for name in measured(folder))
    assert whole == Counter(name for name, _ in expected)  # and none was measured twice
    assert sum(bool(measured(folder)) for folder in folders) > 1
    for folder in folders:
        assert plan_of(folder).read_bytes() == plan_of(alone).read_bytes()


def test_what_a_killed_process_measured_is_measured_again(
    server: Searches, alone: Path, url: str, tmp_path: Path
) -> None:
    killed, folders = tmp_path / "killed", [tmp_path / f"run{index}" for index in range(2)]
    process = server.start(killed, OPTIONS, storage=url, pause_s=60)
    with opened(url) as storage:
        until(lambda: bool(optuna.get_all_study_names(storage)))
        study = study_in(storage)
        until(lambda: running(study) == 1)
        time.sleep(1.2)  # for more than one heartbeat
    os.kill(process, signal.SIGKILL)
    assert server.status(process) == -signal.SIGKILL
    processes = [server.start(folder, OPTIONS, storage=url) for folder in folders]
    assert [server.status(started) for started in processes] == [0, 0]

    with opened(url) as storage:
        study = study_in(storage)
        assert sorted(complete(study).values()) == expected_of(alone)
        failed = study.get_trials(states=(TrialState.FAIL,))
        lost = [trial for trial in failed if trial.user_attrs.get(OUTCOME) != LOST_CLAIM]
        assert [trial.number for trial in lost] == [0]
        assert running(study) == 0
    for folder in folders:
        assert plan_of(folder).read_bytes() == plan_of(alone).read_bytes()


def test_who_is_stopped_amid_a_transaction_holds_nobody_up(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storages, "GRACE_S", 1)
    with opened(url) as storage, storage.engine.connect() as held:
        study = optuna.create_study(storage=storage)
        held.execute(sqlalchemy.text("lock table trials in access exclusive mode"))
        with opened(url) as other:
            other.create_new_trial(study._study_id)
        with pytest.raises(DBAPIError):
            held.execute(sqlalchemy.text("select 1"))


def stopped_outside_a_transaction(process: int, storage: RDBStorage) -> bool:
    """Stops a process, and lets it go on for a moment where it is amid a transaction."""
    os.kill(process, signal.SIGSTOP)
    open_ = "select count(*) from pg_stat_activity where state like 'idle in transaction%'"
    with storage.engine.connect() as connection:
        time.sleep(0.1)  # what the server was doing for it comes to its end
        if connection.execute(sqlalchemy.text(open_)).scalar_one() == 0:
            return True
    os.kill(process, signal.SIGCONT)
    return False


def test_a_process_that_was_taken_for_dead_loses_its_claim_and_nothing_else(
    server: Searches, alone: Path, url: str, tmp_path: Path
) -> None:
    stopped, other = tmp_path / "stopped", tmp_path / "other"
    process = server.start(stopped, OPTIONS, storage=url, pause_s=1.0)
    with opened(url) as storage:
        until(lambda: bool(optuna.get_all_study_names(storage)))
        until(lambda: running(study_in(storage)) == 1)
        until(lambda: stopped_outside_a_transaction(process, storage))
        try:
            assert server.status(server.start(other, OPTIONS, storage=url)) == 0
        finally:
            os.kill(process, signal.SIGCONT)
        assert server.status(process) == 0
        study = study_in(storage)
        assert sorted(complete(study).values()) == expected_of(alone)
        assert len(measured(stopped)) == 1  # in vain
        assert running(study) == 0
    for folder in (stopped, other):
        assert plan_of(folder).read_bytes() == plan_of(alone).read_bytes()
