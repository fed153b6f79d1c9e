"""Workers: measurements divided over processes, with the bits that one process gives."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence

import joblib
import torch

from mixq.errors import FormatError
from mixq.formats import Format
from mixq.graph.units import WeightUnit
from mixq.rounding.replacement import Carried
from mixq.rounding.rounder import Rounder
from mixq.sensitivity.bench import Bench, Found, Step
from mixq.sensitivity.pool import TASKS_PER_WORKER, Pool
from mixq.sensitivity.reference import Reference
from mixq.sensitivity.worker import Outcome, Task, listening, work

_log = logging.getLogger(__name__)


def measured_by(
    workers: int,
    steps: Sequence[Step],
    reference: Reference,
    rounder: Rounder,
) -> Generator[Found]:
    """Errors of every sample, or why the unit does not take the format, as they are found.

    Tasks are units, in the order in which the model reads them, so that every worker goes through
    the model once; where units are few, each is divided by batches too.

    Raises:
        ModelError: if the model cannot be sent to another process, or an output is not finite.
        WorkerError: if a worker has died, or cannot rebuild the model.
    """
    units = {unit.name: unit for unit, _ in steps}
    carried: dict[str, dict[Format, Carried]] = {name: {} for name in units}
    said: set[str] = set()
    with listening() as remarks:
        ordered = Bench(reference.part(0, 1), rounder).ordered(steps)
    say(remarks, said)
    for unit, fmt in ordered:
        try:
            known = rounder.carried(unit.name, fmt)
        except FormatError as error:
            yield unit, fmt, str(error)
        else:
            carried[unit.name].setdefault(fmt, known)
    tasks = list(
        _tasks(carried, groups(TASKS_PER_WORKER * workers, len(units), len(reference.batches)))
    )
    pending: dict[str, list[Outcome]] = {}
    parts = len({task.batches for task in tasks})
    pool = Pool(workers, (reference, dict(units)))
    with contextlib.closing(pool.outcomes(work, tasks)) as outcomes:
        for outcome in outcomes:
            say(outcome.remarks, said)
            together = pending.setdefault(outcome.unit, [])
            together.append(outcome)
            if outcome.failure is None and len(together) < parts:
                continue
            del pending[outcome.unit]
            if len(together) == parts:
                yield from _joined(units[outcome.unit], carried[outcome.unit], together)
            if outcome.failure is not None:
                raise outcome.failure


def crowding(workers: int) -> str | None:
    """What to do where workers would have more threads than there are cores; None if they fit."""
    threads, cores = torch.get_num_threads(), joblib.cpu_count()
    if workers * threads <= cores or threads == 1:
        return None
    return (
        f"{workers} workers of {threads} threads each share {cores} cores; "
        f"OMP_NUM_THREADS={max(cores // workers, 1)} would be quicker"
    )


def say(remarks: Iterable[str], said: set[str]) -> None:
    """Log what has not been said yet."""
    for remark in remarks:
        if remark not in said:
            said.add(remark)
            _log.warning("%s", remark)


def _joined(
    unit: WeightUnit, formats: Iterable[Format], outcomes: Sequence[Outcome]
) -> Generator[Found]:
    """What the batches of a unit say together."""
    ordered = sorted(outcomes, key=lambda outcome: outcome.batches)
    for fmt in formats:
        reasons = [outcome.refused[fmt] for outcome in ordered if fmt in outcome.refused]
        if reasons:
            yield unit, fmt, reasons[0]
        elif all(fmt in outcome.errors for outcome in ordered):
            yield unit, fmt, list(itertools.chain(*(outcome.errors[fmt] for outcome in ordered)))


def groups(tasks: int, items: int, batches: int) -> list[tuple[int, int]]:
    """Ranges of batches that are measured by themselves, for items to give so many tasks."""
    count = min(batches, -(-tasks // items))
    cuts = [batches * index // count for index in range(count + 1)]
    return list(itertools.pairwise(cuts))


def _tasks(
    carried: Mapping[str, Mapping[Format, Carried]], ranges: Sequence[tuple[int, int]]
) -> Iterator[Task]:
    for unit, formats in carried.items():
        if formats:
            yield from (Task(unit, formats, batches) for batches in ranges)
