"""Ledger: what the rows of every unit have met so far."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mixq.graph.units import WeightUnit
from mixq.moments.inputs import Inputs
from mixq.moments.moments import Moments
from mixq.moments.places import RowsOf
from mixq.moments.sums import Sums, sums_of

RECENT = 2
"""Operations whose sums are kept at hand: query, key and value meet the same inputs in a row, and
so do the two directions of an LSTM with one other between them."""


@dataclass(frozen=True, eq=False, slots=True)
class Event:
    """One operation's sums, to be added to those of every unit that meets its inputs."""

    sums: Sums
    inputs: Inputs | None = None  # keeps their memory from being used for others
    _added: list[tuple[Sums, Sums]] = field(default_factory=list)

    def added_to(self, sums: Sums | None) -> Sums:
        """Both together; the same object for the same `sums`, so that units share memory."""
        if sums is None:
            return self.sums
        for before, after in self._added:
            if before is sums:
                return after
        self._added.append((sums, sums.plus(self.sums)))
        return self._added[-1][1]


@dataclass(slots=True)
class Run:
    """Rows first..stop - 1 of a unit, which have met the same inputs."""

    first: int
    stop: int
    sums: Sums | None = None


class Entry:
    """The rows of one unit, in runs that have met the same inputs."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._runs = [Run(0, rows)]

    @property
    def runs(self) -> list[Run]:
        """The runs in order; none if nothing is known of the inputs of any row."""
        return self._runs if any(run.sums is not None for run in self._runs) else []

    def close(self, averages: dict[int, Moments]) -> Moments:
        """The moments of all rows; sums become means in place, and their owner is used up.

        Args:
            averages: of sums by their identity, as far as other entries have made them.
        """
        parts: list[Moments | None] = []
        for run in self._runs:
            if run.sums is not None and id(run.sums) not in averages:
                averages[id(run.sums)] = _averaged(run.sums)
            parts.append(None if run.sums is None else averages[id(run.sums)])
        whole = parts[0] if len(parts) == 1 else None
        return whole or _joined(parts, [run.stop - run.first for run in self._runs])

    def lose(self) -> None:
        """Forget everything, for good: some row was met in a way that has no column moments."""
        self._runs = []

    def add(self, rows: RowsOf, event: Event) -> None:
        """Note that `rows` have met the inputs of `event`."""
        groups = event.sums.groups
        others = {run.sums.groups for run in self._runs if run.sums is not None} - {groups}
        if others or (groups > 1 and rows.count != self._rows):
            self.lose()  # groups within runs of rows: no model has been seen to need them
        stop = rows.first + rows.count
        self._cut(rows.first)
        self._cut(stop)
        for run in self._runs:
            if rows.first <= run.first and run.stop <= stop:
                run.sums = event.added_to(run.sums)
        self._join()

    def _join(self) -> None:
        """Make neighbours one again that have met the same: slices of one input matrix, say."""
        joined = self._runs[:1]
        for run in self._runs[1:]:
            if run.sums is joined[-1].sums:
                joined[-1] = Run(joined[-1].first, run.stop, run.sums)
            else:
                joined.append(run)
        self._runs = joined

    def _cut(self, row: int) -> None:
        for index, run in enumerate(self._runs):
            if run.first < row < run.stop:
                halves = [Run(run.first, row, run.sums), Run(row, run.stop, run.sums)]
                self._runs[index : index + 1] = halves
                return


class Ledger:
    """Sums the inputs of every unit; see `Recorder` for who calls it."""

    def __init__(self, units: Iterable[WeightUnit], most_columns: int) -> None:
        self._entries = {unit.name: Entry(unit.rows) for unit in units}
        self._most_columns = most_columns
        self._recent: deque[tuple[tuple[object, ...], Event]] = deque(maxlen=RECENT)

    def meet(self, rows: RowsOf, columns: int, inputs: Inputs) -> None:
        """Note that `rows` meet `inputs`."""
        key = inputs.key
        event = next((event for known, event in self._recent if known == key), None)
        if event is None:
            sums = sums_of(inputs, rows.unit, is_diagonal=columns > self._most_columns)
            if sums is None:
                return
            event = Event(sums, inputs)
            self._recent.append((key, event))
        self._entries[rows.unit].add(rows, event)

    def refuse(self, unit: str) -> None:
        """Note that rows of `unit` are met in a way that has no column moments."""
        self._entries[unit].lose()

    def forget(self) -> None:
        """Let go of recent inputs, because their memory may be written to."""
        self._recent.clear()

    def close(self) -> dict[str, Moments]:
        """The moments of every unit of which they are known; the ledger is used up."""
        self.forget()
        averages: dict[int, Moments] = {}
        return {name: entry.close(averages) for name, entry in self._entries.items() if entry.runs}


def _averaged(sums: Sums) -> Moments:
    """The moments of all positions of `sums`, in its own memory where that is possible."""
    has_second = sums.products.dim() == 3
    products = sums.products.div_(sums.count).float()
    return Moments(
        diagonal=products.diagonal(dim1=1, dim2=2).clone() if has_second else products,
        mean=(sums.total / sums.count).float(),
        counts=torch.full((sums.groups,), sums.count, device=products.device),
        second=products if has_second else None,
    )


def _joined(parts: list[Moments | None], rows: list[int]) -> Moments:
    """Moments of runs of `rows` rows that met inputs of their own, or None, in one group each."""
    like = next(part for part in parts if part is not None)
    # The largest equal groups that no run's end cuts.
    size = math.gcd(*rows)
    repeats = torch.tensor(rows) // size

    def gathered(field: str) -> Tensor:
        empty = torch.zeros_like(getattr(like, field))
        whole = torch.cat([empty if part is None else getattr(part, field) for part in parts])
        return whole.repeat_interleave(repeats.to(whole.device), dim=0)

    return Moments(
        diagonal=gathered("diagonal"),
        mean=gathered("mean"),
        counts=gathered("counts"),
        second=None if like.second is None else gathered("second"),
    )
