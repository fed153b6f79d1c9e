"""Survival: a command meets a fault, is given again, and must end as if nothing had been."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from .commands import COMMANDS, Stage
from .driver import Outcome
from .fault import Fault
from .whole import contents, damaged, measurements, rubbish, trials


@dataclass(frozen=True)
class Survival:
    """What became of a command.

    Attributes:
        outcome: of the run that met the fault.
        unclean: what it said that is neither a result nor one line.
        damaged: files that were not whole afterwards.
        lost: what had been measured and was not there in the end, or was measured twice.
        stuck: what the same command said afterwards, if it did not end well.
        rubbish: names that it left.
        differs: files that are not those of the undisturbed run.
    """

    fault: Fault
    outcome: Outcome
    unclean: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    rubbish: list[str] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """Everything that went wrong, a line each."""
        kinds = ("unclean", "damaged", "lost", "stuck", "rubbish", "differs")
        return [f"{kind}: {item}" for kind in kinds for item in getattr(self, kind)]


def survive(
    stage: Stage,
    name: str,
    fault: Fault,
    folder: Path,
    *,
    place: Callable[[Path], AbstractContextManager[object]] = nullcontext,
) -> Survival:
    """Let a command meet a fault in `folder`, then run it again there without one.

    Args:
        place: makes the folder for the first run, as on a disk of its own.
    """
    command, whole = COMMANDS[name], stage.undisturbed(name)
    stage.start(name, folder)
    with place(folder):
        start = contents(folder)
        before = set(_measured(folder))
        outcome = stage.zygote.run(command.task(folder, fault))
        broken = damaged(folder, start, whole.contents)
        kept = list(_measured(folder))
    again = stage.zygote.run(command.task(folder))
    found = contents(folder)
    return Survival(
        fault,
        outcome,
        unclean=[] if outcome.is_clean else [f"{outcome.status}: {outcome.err[-2000:]!r}"],
        damaged=broken,
        lost=[f"{item} of {len(kept)}" for item in _lost(folder, before, kept)],
        stuck=[] if again.status == 0 and again.is_clean else [again.err[-2000:]],
        rubbish=rubbish(folder),
        differs=sorted(
            key for key in {*found, *whole.contents} if found.get(key) != whole.contents.get(key)
        ),
    )


def _measured(folder: Path) -> Iterator[tuple[str, str]]:
    """Everything that was measured in a folder: the sensitivities and the trials."""
    run = folder / "run"
    yield from measurements(run)
    for (study, number), (plan, values) in trials(run).items():
        yield f"{study} {number}", f"{plan} {values}"


def _lost(
    folder: Path, before: set[tuple[str, str]], kept: list[tuple[str, str]]
) -> Iterator[str]:
    """What is not there any more, and what is there twice."""
    now = list(_measured(folder))
    for place, what in sorted({*before, *kept} - {*now}):
        yield f"{place} {what[:200]}"
    plans = Counter((place.rpartition(" ")[0] or place, what) for place, what in now)
    for (place, what), count in plans.items():
        if count > 1:
            yield f"{place} {what[:200]} is there {count} times"
