"""Worker: what a process does that measures for another one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from mixq.errors import FormatError, MixqError, WorkerError
from mixq.files import one_line
from mixq.formats import Format
from mixq.rounding.replacement import Carried
from mixq.rounding.rounder import Rounder
from mixq.sensitivity.bench import Bench
from mixq.sensitivity.parcel import unpacked

_log = logging.getLogger("mixq.sensitivity")
Kept = TypeVar("Kept")


@dataclass(frozen=True)
class Settings:
    """What decides bits beside the numbers themselves.

    Attributes:
        threads: within an operation; sums are divided among them.
    """

    threads: int = field(default_factory=torch.get_num_threads)
    dtype: torch.dtype = field(default_factory=torch.get_default_dtype)
    precision: str = field(default_factory=torch.get_float32_matmul_precision)

    def apply(self) -> None:
        """Make them those of this process."""
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        torch.set_default_dtype(self.dtype)
        torch.set_float32_matmul_precision(self.precision)


@dataclass(frozen=True, eq=False)
class Job:
    """What all tasks of one pool have in common.

    Attributes:
        key: names the job.
        parcel: what they work on, packed; or a reference to it in Ray's store.
        settings: of the process that asks.
    """

    key: str
    parcel: Any
    settings: Settings


@dataclass(frozen=True, eq=False)
class Task:
    """Some formats of one unit, on some batches.

    Attributes:
        unit: its name.
        formats: and what they make of it.
        batches: the first one, and the one behind the last.
    """

    unit: str
    formats: Mapping[Format, Carried]
    batches: tuple[int, int]


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes:
        unit, batches: of the task.
        errors: by format, of every sample.
        refused: formats that the unit does not take, and why.
        failure: what ended the task before its last format.
        remarks: what was logged.
    """

    unit: str
    batches: tuple[int, int]
    errors: Mapping[Format, Sequence[float]]
    refused: Mapping[Format, str]
    failure: MixqError | None
    remarks: Sequence[str]


_key = ""
_kept: dict[object, Any] = {}


def work(job: Job, task: Task) -> Outcome:
    """Measure what a task asks for; model and data of a job are unpacked once."""
    errors: dict[Format, Sequence[float]] = {}
    refused: dict[Format, str] = {}
    failure: MixqError | None = None
    with listening() as remarks:
        try:
            job.settings.apply()
            _, units = opened(job)
            bench = kept(job, task.batches, lambda: _bench(job, task.batches))
            for fmt, carried in task.formats.items():
                try:
                    errors[fmt] = bench.errors(units[task.unit], fmt, carried)
                except FormatError as error:
                    refused[fmt] = str(error)
        except MixqError as error:
            failure = error
    return Outcome(task.unit, task.batches, errors, refused, failure, remarks)


def _bench(job: Job, batches: tuple[int, int]) -> Bench:
    reference, units = opened(job)
    part = reference.part(*batches)
    return Bench(part, Rounder(part.model, units))


def kept(job: Job, name: object, make: Callable[[], Kept]) -> Kept:
    """What tasks of a job make once, under a name; it is dropped when another job comes."""
    global _key
    if job.key != _key:
        _kept.clear()
        _key = job.key
    if name not in _kept:
        _kept[name] = make()
    found: Kept = _kept[name]
    return found


def opened(job: Job) -> Any:
    """The content of a job's parcel.

    Raises:
        WorkerError: if it cannot be rebuilt here.
    """
    return kept(job, "content", lambda: _opened(job.parcel))


def _opened(parcel: Any) -> Any:
    try:
        if type(parcel).__module__.startswith("ray"):
            import ray

            parcel = ray.get(parcel)
        return unpacked(parcel)
    except Exception as error:  # classes of the user's may raise anything as they are rebuilt
        raise WorkerError(
            f"a worker cannot rebuild the model: {type(error).__name__}: {one_line(error, 200)}; "
            "install there what the model needs, or use --workers 1"
        ) from error


@contextmanager
def listening() -> Iterator[list[str]]:
    """What is logged meanwhile, for the process that asks: it says the same thing once."""
    remarks: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            remarks.append(record.getMessage())

    handler, propagates = Keep(), _log.propagate
    _log.addHandler(handler)
    _log.propagate = False
    try:
        yield remarks
    finally:
        _log.removeHandler(handler)
        _log.propagate = propagates
