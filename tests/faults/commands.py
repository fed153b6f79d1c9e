"""Commands that faults happen to, each with the folder that it starts in and what it leaves."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from .driver import Outcome, Task, Zygote
from .fault import NONE, TRACED, Fault
from .model import MODEL
from .whole import contents

TINY: Final = ("--model", "tiny.py:load")
SEARCH: Final = (
    *("search", *TINY, "--hardware", "intel_cpu", "--target-compression", "5"),
    *("--trials", "4", "--sensitivity", "measured", "--output", "run"),
)
MODULES: Final = """
import atexit, sys
atexit.register(lambda: open("modules", "w").write("\\n".join(sys.modules)))
"""
UNFORKABLE: Final = ("onnxruntime", "__main__")
"""Modules that start threads as they are imported, which a forked child would not have."""
QUICK_CALIBRATION: Final = """
import time
from pathlib import Path
import mixq.calibrate.calibrate as room
from mixq.profiles import load
import mixq.profiles

def calibrate(threads=1, *, progress):
    for done in range(20):
        progress("timing kernels", done, 20)
        time.sleep(0.01)
    progress("timing kernels", 20, 20)
    file = Path(mixq.profiles.__file__).with_name("raspberry_pi_5.toml")
    profile = load("raspberry_pi_5")
    return room.Calibrated(file.read_text(encoding="utf-8"), profile, 0.01, 300, 15, 20.0)

room.calibrate = calibrate
"""
"""Timing kernels takes minutes and gives other numbers each time; what follows is the real one."""


@dataclass(frozen=True)
class Command:
    """A command line of mixq.

    Attributes:
        name: of the command in tables.
        needs: commands that have to have run in the folder before.
        before: Python that its process runs first.
    """

    name: str
    arguments: Sequence[str]
    needs: tuple[str, ...] = ()
    before: str = ""

    def task(self, folder: Path, fault: Fault = NONE) -> Task:
        return Task(self.arguments, folder, fault, self.before)


COMMANDS: Final = {
    command.name: command
    for command in (
        Command("search", SEARCH),
        Command("search again", (*SEARCH, "--target-compression", "4"), ("search",)),
        Command("analyze", ("analyze", *TINY, "--sensitivity", "measured", "--output", "run")),
        Command(
            "export", ("export", "run/plan.json", *TINY, "--output", "model.onnx"), ("search",)
        ),
        Command("apply", ("apply", "run/plan.json", *TINY), ("search",)),
        Command(
            "calibrate", ("hardware", "calibrate", "--output", "host.toml"), (), QUICK_CALIBRATION
        ),
    )
}


@dataclass
class Stage:
    """A zygote, and a folder in which commands have run that nothing disturbed.

    Attributes:
        place: holds a folder of every command, as it starts and as it ends.
    """

    zygote: Zygote
    place: Path
    _done: dict[str, Undisturbed] = field(default_factory=dict)

    def start(self, name: str, folder: Path) -> Path:
        """Make `folder` what the command starts in."""
        shutil.rmtree(folder, ignore_errors=True)
        needs = COMMANDS[name].needs
        if needs:
            shutil.copytree(self.undisturbed(needs[-1]).folder, folder)
        else:
            folder.mkdir(parents=True)
            (folder / "tiny.py").write_text(MODEL, encoding="utf-8")
        return folder

    def undisturbed(self, name: str) -> Undisturbed:
        """How the command ends when nothing happens; it runs once."""
        if name not in self._done:
            self._done[name] = self._run(name)
        return self._done[name]

    def _run(self, name: str) -> Undisturbed:
        command, folder = COMMANDS[name], self.place / name.replace(" ", "-")
        warm = self.start(name, folder)
        first = self.zygote.run(Task(command.arguments, warm, NONE, command.before + MODULES, {}))
        assert first.status == 0, first.err
        modules = (warm / "modules").read_text(encoding="utf-8").split("\n")
        self.zygote.import_all([m for m in modules if m.split(".")[0] not in UNFORKABLE])
        (warm / "modules").unlink()
        expected = contents(warm)
        start = contents(self.start(name, folder))
        outcome = self.zygote.run(command.task(folder, TRACED))
        assert outcome.status == 0, outcome.err
        assert contents(folder) == expected, "two runs give other bytes"
        return Undisturbed(folder, outcome, expected, start)


@dataclass(frozen=True)
class Undisturbed:
    """A command that nothing happened to.

    Attributes:
        folder: in which it ran.
        contents, start: of its files, after and before.
    """

    folder: Path
    outcome: Outcome
    contents: Mapping[str, bytes]
    start: Mapping[str, bytes]
