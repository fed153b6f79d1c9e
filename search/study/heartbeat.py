"""Heartbeat: how a database knows which trials are being measured by a process that lives."""

from __future__ import annotations

import threading
import warnings
from contextlib import suppress
from types import TracebackType

import optuna
from optuna.exceptions import ExperimentalWarning, OptunaError
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import Study
from optuna.trial import TrialState


class Heartbeat:
    """Beats for some trials while the block runs; not at all for a journal or memory.

    Those belong to one process, which fails what a kill left running as it opens them.
    """

    def __init__(self, storage: BaseStorage, trial_ids: list[int]) -> None:
        self._storage = storage
        self._trial_ids = trial_ids
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> None:
        """Beat once at once, for no trial to look abandoned, then in a thread."""
        interval_s = _interval_s(self._storage)
        if interval_s is None:
            return
        self._beat()
        self._thread = threading.Thread(target=self._run, args=(interval_s,), daemon=True)
        self._thread.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, interval_s: float) -> None:
        while not self._over.wait(interval_s):
            self._beat()

    def _beat(self) -> None:
        assert isinstance(self._storage, RDBStorage)
        # A database that is away: whoever writes a trial will say so.
        with suppress(OptunaError):
            for trial_id in self._trial_ids:
                self._storage.record_heartbeat(trial_id)


class Watch:
    """Fails the trials of processes that have died; see `Heartbeat`."""

    def __init__(self, study: Study, storage: BaseStorage, study_id: int) -> None:
        self._study = study
        self._storage = storage
        self._study_id = study_id
        self._seen: set[int] = set()

    def look(self) -> None:
        """Fail every running trial that has not been heard of for too long.

        A trial whose process died before its first heartbeat would never be missed: the first
        look at each trial is a heartbeat of its own.
        """
        if _interval_s(self._storage) is None:
            return
        assert isinstance(self._storage, RDBStorage)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            optuna.storages.fail_stale_trials(self._study)
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.number not in self._seen:
                self._seen.add(trial.number)
                self._storage.record_heartbeat(
                    self._storage.get_trial_id_from_study_id_trial_number(
                        self._study_id, trial.number
                    )
                )


def _interval_s(storage: BaseStorage) -> float | None:
    return storage.get_heartbeat_interval() if isinstance(storage, RDBStorage) else None
