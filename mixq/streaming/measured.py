"""Measured sensitivities, streamed: many changes side by side, each part fetched once for all.

Same numbers as `mixq.sensitivity.measured`. A change of a unit leaves what lies before the unit as
it was, so its passes begin there, with what the original gave; from there on they go together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch

from mixq.calibration import Calibration
from mixq.errors import FormatError, ModelError
from mixq.formats import Format
from mixq.graph.evaluating import evaluating
from mixq.progress import Progress, silent
from mixq.rounding.replacement import Replacement
from mixq.sensitivity.estimate import Estimate
from mixq.sensitivity.measured import STAGE as STAGE
from mixq.sensitivity.metrics.metric import Metric
from mixq.sensitivity.metrics.weighted import Weighted
from mixq.sensitivity.store import Store
from mixq.sensitivity.table import SensitivityTable
from mixq.streaming.model import StreamedModel
from mixq.streaming.original import Original
from mixq.streaming.parts import Part
from mixq.streaming.passes import DROP, Call, Pass, passes, run_together
from mixq.streaming.shelf import ROOM_BYTES, Shelf

MOST_PASSES: Final = 64
"""Side by side: each is a thread."""

Step = tuple[str, Format]


def measure_streamed(
    streamed: StreamedModel,
    calibration: Calibration,
    formats: Mapping[str, Sequence[Format]],
    *,
    metric: Metric | None = None,
    store: Store | None = None,
    room_bytes: int = ROOM_BYTES,
    spill: Path | None = None,
    progress: Progress = silent,
) -> SensitivityTable:
    """As `mixq.sensitivity.measured.measure`, of a model whose weights lie on disk.

    Args:
        streamed: the model; left as it was.
        calibration: what it is run on.
        formats: candidate formats by unit name.
        metric: of output error; by default squared error of the main output.
        store: where measurements are kept and taken up again.
        room_bytes: of activations kept in memory, and again of those in passes side by side.
        spill: folder for activations beyond.
        progress: is told how far it is.

    Raises:
        ModelError: if an output is NaN or infinite, naming the unit and the format.
        CalibrationError: if a batch does not fit the model.
        OutputError: if the store or the spilled activations cannot be written.
    """
    metric = metric or Weighted()
    store = store or Store(None)
    fingerprint = streamed.fingerprint(progress)
    shelf = Shelf(room_bytes, spill)
    refused: dict[tuple[str, str], str] = {}
    steps = [(unit, fmt) for unit in streamed.units for fmt in formats[unit]]
    try:
        with evaluating(streamed.model):
            missing = [step for step in steps if store.get(step[0], step[1].name) is None]
            runs = any(fmt.bits != 32 for _, fmt in missing)
            original = Original(streamed, calibration.batches, metric, shelf, keep=runs)
            done = len(steps) - len(missing)
            progress(STAGE, done, len(steps))
            measuring = _Measuring(streamed, calibration, original)
            for group in measuring.groups(missing, room_bytes):
                found = measuring.errors(group, refused)
                for unit, fmt in group:
                    if (unit, fmt) in found:
                        store.put(unit, fmt.name, found[unit, fmt])
                    done += 1
                    progress(STAGE, done, len(steps))
    finally:
        shelf.close()
    entries: dict[str, dict[Format, Estimate]] = {unit: {} for unit in streamed.units}
    for unit, fmt in steps:
        known = store.get(unit, fmt.name)
        if known is not None:
            entries[unit][fmt] = Estimate.of_errors(known)
    return SensitivityTable(
        entries=entries,
        output_power=original.power,
        output=original.output,
        samples=calibration.samples,
        model_fingerprint=fingerprint,
        calibration_fingerprint=calibration.fingerprint,
        refused=refused,
        metric=metric.name,
        outputs=dict(metric.weights or {}),
    )


class _Measuring:
    """Measures groups of changes, each change on all batches."""

    def __init__(
        self, streamed: StreamedModel, calibration: Calibration, original: Original
    ) -> None:
        self._streamed = streamed
        self._batches = calibration.batches
        self._original = original
        self._latest: tuple[Part, Step, Replacement | FormatError | None] | None = None

    def groups(self, steps: Sequence[Step], room_bytes: int) -> list[list[Step]]:
        """Changes that run side by side, in the order in which the model reads their units."""
        ordered = sorted(steps, key=lambda step: self._first(step[0], 0))
        room = min(
            room_bytes // max(self._original.largest_bytes, 1),
            MOST_PASSES // len(self._batches),
        )
        size = max(room, 1)
        return [ordered[start : start + size] for start in range(0, len(ordered), size)]

    def errors(
        self, group: Sequence[Step], refused: dict[tuple[str, str], str]
    ) -> dict[Step, list[float]]:
        """Errors by sample of each change that its unit takes; why not goes into `refused`."""
        changes = [step for step in group if step[1].bits != 32]
        found: dict[Step, list[list[float]]] = {
            step: [[] for _ in self._batches] for step in group
        }
        pairs = [(step, index) for step in changes for index in range(len(self._batches))]
        unchanged = {step for step in group if step[1].bits == 32}

        def answer(number: int, asked: Call) -> object:
            step, _ = pairs[number]
            try:
                replacement = self._replacement(asked.part, step)
            except FormatError as error:
                refused[step[0], step[1].name] = str(error)
                return DROP
            if replacement is None and step[0] in self._streamed.units_in(asked.part):
                unchanged.add(step)
                return DROP
            return self._streamed.run(asked.part, asked.args, asked.kwargs, replacement)

        def ended(number: int, output: object) -> None:
            step, index = pairs[number]
            what = f"{step[0]} at {step[1].name}"
            found[step][index] = self._original.errors(index, output, what)

        batches = [self._batches[index] for _, index in pairs]
        with passes(self._streamed, batches) as running:
            waiting: dict[int, Call] = {}
            for number, (step, index) in enumerate(pairs):
                asked = self._ahead(running[number], step[0], index)
                if asked is None:  # no call reads the unit
                    unchanged.add(step)
                else:
                    waiting[number] = asked
            run_together(self._streamed, running, waiting, answer, ended)
        self._latest = None
        return {
            step: [0.0] * self._original.samples
            if step in unchanged
            else [error for errors in rows for error in errors]
            for step, rows in found.items()
            if (step[0], step[1].name) not in refused
        }

    def _ahead(self, one: Pass, unit: str, batch: int) -> Call | None:
        """The first call of a pass that reads a unit; those before give what they always give."""
        asked = one.start()
        first = self._first(unit, batch)
        while asked is not None and asked.index < first:
            if asked.part is not self._original.calls[batch][asked.index]:
                raise ModelError(
                    "the model calls other blocks in another pass on the same batch; analyze it "
                    "without --stream"
                )
            asked = one.go_on(self._original.behind(batch, asked.index))
        return asked

    def _first(self, unit: str, batch: int) -> int:
        calls = self._original.calls[batch]
        reads = (i for i, part in enumerate(calls) if unit in self._streamed.units_in(part))
        return next(reads, len(calls))

    def _replacement(self, part: Part, step: Step) -> Replacement | None:
        """What a change replaces in a part that is in memory; None if that is the same as before.

        Raises:
            FormatError: if the unit's weights do not fit the format.
        """
        unit, fmt = step
        if unit not in self._streamed.units_in(part):
            return None
        if self._latest is None or self._latest[:2] != (part, step):
            made: Replacement | FormatError | None
            try:
                made = self._streamed.rounder(part).replacement(unit, fmt)
                if not made.inputs and torch.equal(
                    made.tensors[unit], self._streamed.weight(unit)
                ):
                    made = None
            except FormatError as error:
                made = error
            self._latest = (part, step, made)
        known = self._latest[2]
        if isinstance(known, FormatError):
            raise known
        return known
