"""Case: one kernel at one size, to be timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from mixq.batch import Batch
from mixq.cost.law import Load
from mixq.formats import Format
from mixq.graph.work import Work

if TYPE_CHECKING:
    from torch import Tensor

EMPTY: Final = "empty"
"""Routine of the call that computes nothing; its time is taken off every other."""


@dataclass(frozen=True)
class Case:
    """One size of one routine.

    Attributes:
        routine: key of what it tells about, see `mixq.calibrate.routine`.
        name: in words, with sizes.
        work: of one kernel call.
        load: of one kernel call.
        run: makes `calls` of them.
        calls: kernels of this size that one run makes.
    """

    routine: str
    name: str
    work: Work
    load: Load
    run: Callable[[], object]
    calls: int = 1


def weights_load(work: Work, fmt: Format, matrix: tuple[int, int]) -> Load:
    """The load of a call that is made again and again: its weights stay where there is room."""
    weight_bytes = fmt.stored_bytes(*matrix) if matrix[0] * matrix[1] else 0
    moved = work.input_bytes + work.output_bytes
    # An elementwise operation computes its results one by one, as others unpack weights.
    numbers = 0 if work.macs else work.output_bytes // 4
    return Load(
        weight_bytes=weight_bytes,
        weights=matrix[0] * matrix[1] or numbers,
        activation_bytes=moved,
        working_set_bytes=weight_bytes + moved,
    )


class Runs(Protocol):
    """What runs a batch: a session of a runtime."""

    def run(self, batch: Batch) -> object:
        """One call."""
        ...


def loaded(session: Runs, *tensors: Tensor) -> Callable[[], object]:
    """A call of the session with these inputs."""
    return lambda: session.run(tensors)
