"""Driver: runs commands of mixq in processes that meet a fault, and says how they ended."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from .fault import NONE, Fault

ZYGOTE: Final = Path(__file__).resolve().parent / "zygote.py"
LONGEST_S: Final = 300
INTERRUPTED: Final = 130


@dataclass(frozen=True)
class Task:
    """A command line of mixq in a folder.

    Attributes:
        before: Python that its process runs first.
    """

    arguments: Sequence[str]
    folder: Path
    fault: Fault = NONE
    before: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        return {
            "arguments": list(self.arguments), "folder": str(self.folder),
            "fault": self.fault.to_json(), "before": self.before,
            "environment": dict(self.environment),
        }  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        status: of exit, or minus the signal that ended it.
        calls: `name path`, relative to its folder, of what it did there; only if watched.
        hurt: whether the fault's call or moment came before the end.
        hung: whether it had to be killed in the end.
    """

    status: int
    out: str
    err: str
    seconds: float
    calls: tuple[str, ...]
    hurt: bool
    hung: bool
    peak_bytes: int

    @property
    def errors(self) -> list[str]:
        """Lines of stderr but progress and notes."""
        return [line for line in self.err.splitlines() if not _is_progress(line)]

    @property
    def is_clean(self) -> bool:
        """Done, or refused with one line and nothing on stdout, or ended by a signal."""
        if self.hung or "Traceback" in self.err or "bug in mixq" in self.err:
            return False
        if self.status == 0:
            return not self.errors
        if self.status < 0:
            # Once Python has taken down its handlers, all being done, Ctrl-C ends it as well.
            return not self.errors and -self.status in (2, 9, 15)
        one = len(self.errors) == 1 and self.errors[0].startswith("error: ")
        return one and self.status in (1, 2, 3, INTERRUPTED) and not self.out


def _is_progress(line: str) -> bool:
    stage, _, rest = line.rpartition(": ")
    done, of, total = rest.partition(" of ")
    return line.startswith("note: ") or bool(stage and of and done.isdigit() and total.isdigit())


class Zygote:
    """A process that has imported everything and forks one for every command."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert self._line() == "ready"

    def run(self, task: Task) -> Outcome:
        """Run one command."""
        (outcome,) = self.run_all([task])
        return outcome

    def run_all(self, tasks: Sequence[Task]) -> list[Outcome]:
        """Run commands at the same time."""
        self.start(tasks)
        return self.ended()

    def start(self, tasks: Sequence[Task]) -> None:
        """Start commands; `ended` waits for them."""
        self._tell({"tasks": [task.to_json() for task in tasks]})

    def ended(self) -> list[Outcome]:
        """How those that were started have ended, once all have."""
        found: list[dict[str, Any]] = json.loads(self._line())
        return [Outcome(**{**item, "calls": tuple(item["calls"])}) for item in found]

    def import_all(self, modules: Sequence[str]) -> None:
        """Import these, for no child to have to."""
        self._tell({"import": list(modules)})
        self._line()

    def _tell(self, request: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def _line(self) -> str:
        answers = self._process.stdout
        assert answers is not None
        # Every request has one line for an answer, so that nothing is left in the buffer.
        assert select.select([answers], [], [], LONGEST_S)[0], "a command hangs"
        line = answers.readline()
        assert line, "the zygote has died; its stderr says why"
        return line.strip()


@contextmanager
def zygote() -> Iterator[Zygote]:
    """A zygote for as long as the block runs."""
    environment = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    with subprocess.Popen(
        [sys.executable, "-P", str(ZYGOTE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    ) as process:
        try:
            yield Zygote(process)
        finally:
            process.kill()
