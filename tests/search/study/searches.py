"""Searches of a tiny model in processes of their own, which may be killed."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import TrialState

# Imports once, then forks for every search: a line on stdin is a request, the answer on stdout
# the number of the process, or how it ended.
SERVER = """
import json
import os
import signal
import sys
import time
import warnings

import torch
from torch import nn

from mixq.search.study import storage
from mixq.search.call import search
from mixq.sensitivity.whole import WholePlans

torch.set_num_threads(1)
torch.manual_seed(0)
warnings.simplefilter("error")
model = nn.Sequential(
    nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 40), nn.ReLU(), nn.Linear(40, 32), nn.ReLU(),
    nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 8),
)
samples = torch.randn(16, 32)
storage.HEARTBEAT_S, storage.GRACE_S = 1, 3
alone = WholePlans._alone


def run(task):
    def slowly(plans, what, assignment):
        time.sleep(task["pause_s"])
        errors = alone(plans, what, assignment)
        with open(task["log"], "a") as file:
            file.write(what + "\\n")
        return errors

    WholePlans._alone = slowly
    result = search(
        model, samples, hardware="intel_cpu", target_compression=7.0, folder=task["folder"],
        storage=task["storage"], sequential=False, sensitivity="measured",
        **task["options"],
    )
    result.plan.save(task["plan"])


search(model, samples, hardware="intel_cpu", target_compression=7.0, trials=2)
print("ready", flush=True)
for line in sys.stdin:
    task = json.loads(line)
    if "wait" in task:
        print(os.waitstatus_to_exitcode(os.waitpid(task["wait"], 0)[1]), flush=True)
        continue
    child = os.fork()
    if child == 0:
        try:
            run(task)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    print(child, flush=True)
"""


LONGEST_S = 240
"""What a search of this model takes on a busy machine is less by far."""


class Searches:
    """Starts searches and says how they ended."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert self._line() == "ready"

    def start(
        self,
        folder: Path,
        options: Mapping[str, object],
        *,
        storage: str | None = None,
        pause_s: float = 0.0,
    ) -> int:
        """The process that searches in `folder` from now on; it saves its plan there."""
        task = {
            "folder": str(folder), "storage": storage, "pause_s": pause_s,
            "options": dict(options),
            "plan": str(plan_of(folder)), "log": str(log_of(folder)),
        }  # fmt: skip
        return int(self._asked(task))

    def status(self, process: int) -> int:
        """How a process has ended, once it has."""
        return int(self._asked({"wait": process}))

    def _asked(self, task: object) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        return self._line()

    def _line(self) -> str:
        answers = self._process.stdout
        assert answers is not None
        # Every request has one line for an answer, so that nothing is left in the buffer.
        assert select.select([answers], [], [], LONGEST_S)[0], "searches wait for each other"
        return answers.readline().strip()


@contextmanager
def searches() -> Iterator[Searches]:
    """A server of searches for as long as the block runs."""
    with subprocess.Popen(
        [sys.executable, "-P", "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        try:
            yield Searches(process)
        finally:
            process.kill()


def plan_of(folder: Path) -> Path:
    """The plan of the search in a folder, once it is done."""
    return folder / "plan.json"


def log_of(folder: Path) -> Path:
    """The names of the plans that the searches in a folder have measured to their end."""
    return folder.with_suffix(".log")


def measured(folder: Path) -> list[str]:
    """Names of plans that the searches in a folder have measured, in that order."""
    log = log_of(folder)
    return log.read_text(encoding="utf-8").split("\n")[:-1] if log.exists() else []


def study_in(storage: BaseStorage) -> Study:
    """The one study of a storage."""
    (name,) = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage)


def complete(study: Study) -> dict[int, tuple[str, tuple[float, ...]]]:
    """Name and values of the complete trials by their numbers."""
    return {
        trial.number: (trial.user_attrs["name"], tuple(trial.values))
        for trial in study.get_trials(states=(TrialState.COMPLETE,))
    }


def until(holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)
