"""Whole plans measured: in this process, or divided over workers with the same bits."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from mixq.errors import MixqError
from mixq.formats import Format
from mixq.rounding.replacement import Carried, joined
from mixq.rounding.rounder import Rounder
from mixq.sensitivity.joint import joint_errors
from mixq.sensitivity.pool import Pool
from mixq.sensitivity.reference import Reference
from mixq.sensitivity.worker import Job, kept, listening, opened
from mixq.sensitivity.workers import groups, say

Plan: TypeAlias = tuple[str, Mapping[str, Format]]
"""What a plan is called in messages, and unit name to format."""
Errors: TypeAlias = Mapping[str, Sequence[float]]
"""By name of the reference, the error of every sample."""


@dataclass(frozen=True, eq=False)
class PlanTask:
    """A plan on some batches of one reference.

    Attributes:
        plan: its place among those that are measured together.
        what: it is called.
        reference: the name of one.
        batches: the first one, and the one behind the last.
        units: unit name to format, and what the format makes of it.
    """

    plan: int
    what: str
    reference: str
    batches: tuple[int, int]
    units: Mapping[str, tuple[Format, Carried]]


@dataclass(frozen=True)
class PlanOutcome:
    """What became of a task: errors, or the failure in their place, and what was logged."""

    plan: int
    reference: str
    batches: tuple[int, int]
    errors: Sequence[float]
    failure: MixqError | None
    remarks: Sequence[str]


class WholePlans:
    """Measures plans of one model.

    Args:
        rounder: knows the model, and what formats make of its units.
        references: by name, all of them of this model.
        workers: processes; the errors are the same for any number.
    """

    def __init__(
        self, rounder: Rounder, references: Mapping[str, Reference], workers: int = 1
    ) -> None:
        self.rounder = rounder
        self.references = references
        self.workers = workers

    def measure(self, plans: Sequence[Plan]) -> Generator[tuple[int, Errors | MixqError]]:
        """Place and errors of every plan as they are found, or why it cannot be measured.

        Raises:
            ModelError: if the model cannot be sent to another process.
            WorkerError: if a worker dies.
        """
        if self.workers == 1:
            for index, (what, assignment) in enumerate(plans):
                yield index, self._alone(what, assignment)
        else:
            yield from self._divided(plans)

    def _alone(self, what: str, assignment: Mapping[str, Format]) -> Errors | MixqError:
        try:
            return joint_errors(self.rounder, assignment, self.references, what)
        except MixqError as error:
            return error

    def _divided(self, plans: Sequence[Plan]) -> Generator[tuple[int, Errors | MixqError]]:
        tasks: list[PlanTask] = []
        for index, (what, assignment) in enumerate(plans):
            try:
                carried = {
                    unit: (fmt, self.rounder.carried(unit, fmt))
                    for unit, fmt in assignment.items()
                }
            except MixqError as error:
                yield index, error
                continue
            tasks += [
                PlanTask(index, what, name, batches, carried)
                for name, reference in self.references.items()
                for batches in groups(self.workers, len(plans), len(reference.batches))
            ]
        parts = {index: sum(task.plan == index for task in tasks) for index in range(len(plans))}
        pending: dict[int, list[PlanOutcome]] = {}
        said: set[str] = set()
        with contextlib.closing(self._pool.outcomes(work_on_plan, tasks)) as outcomes:
            for outcome in outcomes:
                say(outcome.remarks, said)
                together = pending.setdefault(outcome.plan, [])
                together.append(outcome)
                if len(together) == parts[outcome.plan]:
                    yield outcome.plan, _joined(pending.pop(outcome.plan), self.references)

    @cached_property
    def _pool(self) -> Pool:
        return Pool(self.workers, (dict(self.references), dict(self.rounder.units)))


def work_on_plan(job: Job, task: PlanTask) -> PlanOutcome:
    """Measure what a task asks for, in another process."""
    errors: Sequence[float] = ()
    failure: MixqError | None = None
    with listening() as remarks:
        try:
            job.settings.apply()
            references, units = opened(job)
            reference = references[task.reference].part(*task.batches)
            rounder = kept(job, "rounder", lambda: Rounder(reference.model, units))
            replacement = joined(
                rounder.replacement(unit, fmt, carried.packed, carried.bias)
                for unit, (fmt, carried) in task.units.items()
                if fmt.bits != 32
            )
            errors = reference.errors(replacement, task.what)
        except MixqError as error:
            failure = error
    return PlanOutcome(task.plan, task.reference, task.batches, errors, failure, remarks)


def _joined(
    outcomes: Iterable[PlanOutcome], references: Mapping[str, Reference]
) -> Errors | MixqError:
    """What the parts of a plan say together; the failure is that of the first part."""
    names = list(references)
    ordered = sorted(outcomes, key=lambda part: (names.index(part.reference), part.batches))
    failures = [part.failure for part in ordered if part.failure is not None]
    if failures:
        return failures[0]
    return {
        name: list(itertools.chain(*(p.errors for p in ordered if p.reference == name)))
        for name in names
    }
