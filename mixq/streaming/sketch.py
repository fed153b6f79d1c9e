"""The sketch, streamed: forward and backward block by block, all samples together.

Same numbers as `mixq.sensitivity.sketch`. Forward, each part's inputs are kept and nothing else;
what happens between parts is recorded by torch. Backward, part by part from the last, each is
run again on its inputs and differentiated; its weight gradients meet every format at once and are
dropped. Weights that several calls read (a tied head) are differentiated at the first of them, by
running the later ones again.

Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174, 2016, with
one segment per block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from mixq.calibration import Calibration
from mixq.errors import FormatError
from mixq.formats import Format
from mixq.graph.evaluating import evaluating
from mixq.progress import Progress, silent, track
from mixq.quantize.weights import PackedWeight
from mixq.sensitivity.estimate import Estimate
from mixq.sensitivity.metrics.metric import Metric
from mixq.sensitivity.metrics.weighted import Weighted
from mixq.sensitivity.sketch import (
    STAGE,
    Squares,
    estimates,
    hash_of,
    meet,
    no_gradient,
    no_squares,
    samples_of,
    signed_sum,
)
from mixq.streaming.model import StreamedModel
from mixq.streaming.parts import Part
from mixq.streaming.passes import Call, passes, run_together, started
from mixq.streaming.record import Record
from mixq.streaming.shelf import ROOM_BYTES, Shelf

GRADIENT_BYTES: Final = 1 << 29
"""Of gradients of a part that are kept at once; each set of them has the part's codes unpacked."""


def sketch_streamed(
    streamed: StreamedModel,
    calibration: Calibration,
    formats: Mapping[str, Sequence[Format]],
    *,
    metric: Metric | None = None,
    probes: int = 2,
    seed: int = 0,
    room_bytes: int = ROOM_BYTES,
    spill: Path | None = None,
    progress: Progress = silent,
) -> dict[str, dict[Format, Estimate]]:
    """As `mixq.sensitivity.sketch.sketch`, of a model whose weights lie on disk.

    Every part is fetched once forward and once backward, and rounded once.

    Args:
        streamed: the model; left as it was.
        calibration: what it is run on, sample by sample.
        formats: candidate formats by unit name.
        metric: of output error; by default squared error of the main output.
        probes: backward passes per sample.
        seed: of the random signs.
        room_bytes: of activations kept in memory.
        spill: folder for those beyond.
        progress: is told how far it is.

    Raises:
        ModelError: as `sketch`; or if a block writes over its inputs.
    """
    metric = metric or Weighted()
    samples = list(samples_of(calibration))
    squares = no_squares(streamed.units, formats, len(samples))
    shelf = Shelf(room_bytes, spill)
    records = [Record(streamed, shelf, probes) for _ in samples]

    def answer(number: int, asked: Call) -> object:
        return records[number].forward(asked)

    def ended(number: int, output: object) -> None:
        for probe in range(probes):
            signs = torch.Generator().manual_seed(hash_of(seed, number, probe))
            with torch.enable_grad():
                total = signed_sum(metric, metric.pick(output), samples[number], signs)
            records[number].begin(probe, total)

    try:
        with evaluating(streamed.model), passes(streamed, samples, gradients=True) as running:
            run_together(streamed, running, started(running), answer, ended)
            _backward(streamed, records, squares, progress)
    finally:
        shelf.close()
    return estimates(squares, probes)


def _backward(
    streamed: StreamedModel, records: Sequence[Record], squares: Squares, progress: Progress
) -> None:
    """All records from their last call to their first, those with the same calls together."""
    groups: dict[tuple[Part, ...], list[int]] = {}
    for number, record in enumerate(records):
        groups.setdefault(record.parts, []).append(number)
    visits = [
        (members, index)
        for parts, members in groups.items()
        for index in reversed(range(len(parts)))
    ]
    found = False
    for members, index in track(visits, STAGE, len(visits), progress):
        here = {number: records[number] for number in members}
        found |= _visit(streamed, here, index, squares)
    if not found:
        raise no_gradient()


def _visit(
    streamed: StreamedModel, records: Mapping[int, Record], index: int, squares: Squares
) -> bool:
    """Differentiate the same call of several records, and meet the formats of its weights.

    Returns:
        Whether there is any gradient.
    """
    found = False
    one = next(iter(records.values()))
    part = one.parts[index]
    due = one.due(index)
    with streamed.in_memory(part):
        weights: dict[str, Tensor] = {unit: streamed.weight(unit) for unit in due}
        size = sum(weight.numel() * weight.element_size() for weight in weights.values())
        together = max(1, GRADIENT_BYTES // max(size, 1))
        codes = _Codes(streamed, part)
        own = {unit: squares[unit] for unit in due}
        pending: list[tuple[int, Mapping[str, Tensor]]] = []
        for number, record in records.items():
            for gradients in record.backward(index):
                found |= bool(gradients)
                pending.append((number, gradients))
                del gradients  # or the loop would hold on to them while the next ones are made
                if len(pending) == together:
                    meet(pending, own, codes.rounded, weights)
                    pending = []
        meet(pending, own, codes.rounded, weights)
    return found


class _Codes:
    """The weights of a part that is in memory, rounded once: as codes, which are small."""

    def __init__(self, streamed: StreamedModel, part: Part) -> None:
        self._rounder = streamed.rounder(part)
        self._known: dict[tuple[str, Format], PackedWeight | FormatError] = {}

    def rounded(self, unit: str, fmt: Format) -> Tensor:
        """A unit's weights in a format.

        Raises:
            FormatError: if they do not fit it.
        """
        if (unit, fmt) not in self._known:
            try:
                self._known[unit, fmt] = self._rounder.packed(unit, fmt)
            except FormatError as error:
                self._known[unit, fmt] = error
        known = self._known[unit, fmt]
        if isinstance(known, FormatError):
            raise known
        return known.unpacked()
