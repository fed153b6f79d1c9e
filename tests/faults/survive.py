"""Survival: a command meets a fault, is given again, and must end as if nothing had been."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from .commands import COMMANDS, Stage
from .driver import Outcome
from .fault import Fault
from .whole import contents, damaged, measurements, rubbish, trials


@dataclass
class Survival:
    """What became of a command that met faults, one run after another.

    Attributes:
        outcomes: of the runs that met them.
        unclean: what they said that is neither a result nor one line.
        damaged: files that were not whole after one.
        lost: what had been measured and was not there later, or was measured twice.
        stuck: what the same command said in the end, if it did not end well.
        rubbish: names that it left.
        differs: files that are not those of the undisturbed run.
        seconds: that all of it took.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    unclean: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    rubbish: list[str] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def problems(self) -> list[str]:
        """Everything that went wrong, a line each."""
        kinds = ("unclean", "damaged", "lost", "stuck", "rubbish", "differs")
        return [f"{kind}: {item}" for kind in kinds for item in getattr(self, kind)]

    @property
    def hurt(self) -> int:
        """How many of the faults came before the end."""
        return sum(outcome.hurt or outcome.status != 0 for outcome in self.outcomes)


def survive(
    stage: Stage,
    name: str,
    faults: Sequence[Fault],
    folder: Path,
    *,
    place: Callable[[Path], AbstractContextManager[object]] = nullcontext,
) -> Survival:
    """Let a command meet faults in `folder`, one in each run, then run it there without any.

    Args:
        place: makes the folder what it is while faults come, such as a disk of its own.
    """
    started = time.monotonic()
    command, whole = COMMANDS[name], stage.undisturbed(name)
    stage.start(name, folder)
    start = contents(folder)
    kept = set(_measured(folder))
    survival = Survival()
    with place(folder):
        for fault in faults:
            outcome = stage.zygote.run(command.task(folder, fault))
            survival.outcomes.append(outcome)
            if not outcome.is_clean:
                survival.unclean.append(f"{outcome.status}: {outcome.err[-2000:]!r}")
            survival.damaged += damaged(folder, start, whole.contents)
            survival.lost += _lost(folder, kept)
            kept |= set(_measured(folder))
    again = stage.zygote.run(command.task(folder))
    if again.status != 0 or not again.is_clean:
        survival.stuck.append(f"{again.status}: {again.err[-2000:]!r}")
    survival.lost += _lost(folder, kept)
    survival.rubbish = rubbish(folder)
    found = contents(folder)
    names = {*found, *whole.contents}
    survival.differs = sorted(key for key in names if found.get(key) != whole.contents.get(key))
    survival.seconds = time.monotonic() - started
    return survival


def _measured(folder: Path) -> Iterator[tuple[str, str]]:
    """Everything that was measured in a folder: the sensitivities and the trials."""
    run = folder / "run"
    yield from measurements(run)
    for (study, number), (plan, values) in trials(run).items():
        yield f"{study} {number}", f"{plan} {values}"


def _lost(folder: Path, kept: set[tuple[str, str]]) -> Iterator[str]:
    """What is not there any more, and what is there twice."""
    now = list(_measured(folder))
    for place, what in sorted(kept - {*now}):
        yield f"{place} {what[:200]}"
    plans = Counter((place.rpartition(" ")[0] or place, what) for place, what in now)
    for (place, what), count in plans.items():
        if count > 1:
            yield f"{place} {what[:200]} is there {count} times"
