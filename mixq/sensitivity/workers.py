"""Workers: measurements divided over processes, with the bits that one process gives.

joblib starts them; a backend that is configured around the call (`joblib.parallel_config`, such as
Ray's for many machines) takes the place of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import signal
import uuid
import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Final

import joblib
import torch

from mixq.errors import FormatError, ModelError, WorkerError
from mixq.files import one_line
from mixq.formats import Format
from mixq.graph.units import WeightUnit
from mixq.rounding.replacement import Carried
from mixq.rounding.rounder import Rounder
from mixq.sensitivity.bench import Bench, Found, Step
from mixq.sensitivity.parcel import packed
from mixq.sensitivity.reference import Reference
from mixq.sensitivity.watch import end_with
from mixq.sensitivity.worker import Job, Outcome, Settings, Task, listening, work

TASKS_PER_WORKER: Final = 4
"""At least, where samples allow it, so that none waits long for the last."""
IDLE_S: Final = 60
"""After which a worker that has nothing to do gives its memory back."""
_Pool: Any = joblib.Parallel  # whose types are not all that it takes
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
    _say(remarks, said)
    for unit, fmt in ordered:
        try:
            known = rounder.carried(unit.name, fmt)
        except FormatError as error:
            yield unit, fmt, str(error)
        else:
            carried[unit.name].setdefault(fmt, known)
    tasks = list(_tasks(carried, _groups(workers, len(units), len(reference.batches))))
    pending: dict[str, list[Outcome]] = {}
    parts = len({task.batches for task in tasks})
    with contextlib.closing(_outcomes(workers, reference, units, tasks)) as outcomes:
        for outcome in outcomes:
            _say(outcome.remarks, said)
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


def _say(remarks: Iterable[str], said: set[str]) -> None:
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


def _groups(workers: int, units: int, batches: int) -> list[tuple[int, int]]:
    """Ranges of batches that are measured by themselves."""
    count = min(batches, -(-TASKS_PER_WORKER * workers // units))
    cuts = [batches * index // count for index in range(count + 1)]
    return list(itertools.pairwise(cuts))


def _tasks(
    carried: Mapping[str, Mapping[Format, Carried]], groups: Sequence[tuple[int, int]]
) -> Iterator[Task]:
    for unit, formats in carried.items():
        if formats:
            yield from (Task(unit, formats, batches) for batches in groups)


def _outcomes(
    workers: int,
    reference: Reference,
    units: Mapping[str, WeightUnit],
    tasks: Sequence[Task],
) -> Generator[Outcome]:
    """Outcomes of tasks in the order in which they are finished."""
    if not tasks:
        return
    parallel, streams = _parallel(workers)
    ray = _ray(parallel)
    parcel: Any = _packed((reference, dict(units)), far=ray is not None)
    job = Job(
        key=uuid.uuid4().hex,
        parcel=parcel if ray is None else ray.put(parcel),
        settings=Settings(),
    )
    broken = (BrokenProcessPool, *(() if ray is None else (ray.exceptions.RayError,)))
    calls = (joblib.delayed(work)(job, task) for task in tasks)
    try:
        if streams:
            yield from _streamed(parallel, calls)
            return
        with parallel:  # such a backend answers at the end of a call only, so calls are short
            while chunk := list(itertools.islice(calls, TASKS_PER_WORKER * workers)):
                yield from parallel(chunk)
    except broken as error:
        raise WorkerError(
            "a worker process has died, as happens where memory runs out: "
            f"{one_line(str(error).partition('.')[0], 100)}; nothing that was measured is lost, "
            "run it again with fewer --workers"
        ) from error


def _parallel(workers: int) -> tuple[Any, bool]:
    """The pool of joblib in the configured backend, and whether it gives results as they come."""
    backend = _Pool(n_jobs=workers)._backend
    if getattr(backend, "supports_sharedmem", False) and backend.effective_n_jobs(workers) > 1:
        raise WorkerError(
            f"joblib is configured for {type(backend).__name__}, whose workers would change the "
            "weights of one model at once; configure a backend of processes"
        )
    if not backend.supports_return_generator:
        return _Pool(n_jobs=workers, batch_size=1), False
    own = {}
    if type(backend).__name__ == "LokyBackend":  # others start and end workers their own way
        own = {
            "idle_worker_timeout": IDLE_S,
            "initializer": end_with,
            "initargs": (os.getpid(),),
        }
    streamed = "generator_unordered"
    return _Pool(n_jobs=workers, batch_size=1, return_as=streamed, **own), True


def _streamed(parallel: Any, calls: Iterable[Any]) -> Iterator[Outcome]:
    # What starts while Ctrl-C is held back never sees it: this process ends its workers itself.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        results = parallel(calls)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield from results
    finally:
        with warnings.catch_warnings():  # that tasks are given up is known
            warnings.simplefilter("ignore")
            results.close()


def _ray(parallel: Any) -> Any:
    """The module `ray`, if that is the backend."""
    if not type(parallel._backend).__module__.startswith("ray."):
        return None
    import ray

    return ray


def _packed(content: object, *, far: bool) -> Any:
    try:
        return packed(content, far=far)
    except Exception as error:  # what a user's model holds may refuse in any way to be pickled
        raise ModelError(
            f"the model cannot be sent to another process: {type(error).__name__}: "
            f"{one_line(error, 200)}; use --workers 1 (workers=1)"
        ) from error
