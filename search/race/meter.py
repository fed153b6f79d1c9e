"""Meter: measures entries on more and more samples, and writes what came of it in a table."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from mixq.batch import sample_count
from mixq.calibration import Calibration
from mixq.formats import Format
from mixq.rounding.rounder import Rounder
from mixq.search.race.evidence import Entry, Evidence
from mixq.sensitivity.estimate import Estimate
from mixq.sensitivity.measured import measure
from mixq.sensitivity.reference import Reference
from mixq.sensitivity.setting import Setting
from mixq.sensitivity.table import SensitivityTable

if TYPE_CHECKING:
    from torch import nn


class Meter:
    """Measures on the first sample, on the first two, four and so on: the levels 1, 2, 3...

    Batches that must not be cut count as one: there a level is one batch, two, four and so on.

    Attributes:
        levels: how many there are; the last one is all samples.
    """

    def __init__(
        self,
        model: nn.Module,
        model_fingerprint: str,
        rounder: Rounder,
        calibration: Calibration,
        setting: Setting,
    ) -> None:
        self._model = model
        self._fingerprint = model_fingerprint
        self._rounder = rounder
        self._calibration = calibration
        self._setting = setting
        self._stops = _stops(calibration)
        self.levels = len(self._stops)
        self._parts: list[tuple[Calibration, Reference]] = []
        self._refused: dict[tuple[str, str], str] = {}

    def measure(self, entries: Collection[Entry], level: int, evidence: Evidence) -> None:
        """Add what is missing of these entries up to a level to the evidence.

        Raises:
            MixqError: as `mixq.sensitivity.measured.measure`.
        """
        for below in range(level):
            wanted = [entry for entry in entries if evidence.level(entry) == below]
            if not wanted:
                continue
            part, reference = self._part(below)
            store = self._setting.store(self._fingerprint, part, self._rounder)
            formats: dict[str, list[Format]] = {}
            for unit, fmt in wanted:
                formats.setdefault(unit, []).append(fmt)
            units = [unit for name, unit in self._rounder.units.items() if name in formats]
            table = measure(
                self._model, part, units, formats, reference=reference, rounder=self._rounder,
                store=store, workers=self._setting.workers,
                progress=self._setting.progress,
            )  # fmt: skip
            self._refused |= table.refused
            for unit, row in table.entries.items():
                for fmt in row:
                    evidence.add((unit, fmt), store.get(unit, fmt.name) or [])

    def table(self, entries: Iterable[Entry], evidence: Evidence) -> SensitivityTable:
        """What is believed of those entries that there is evidence of, in their order."""
        self._part(0)
        estimates = evidence.estimates()
        rows: dict[str, dict[Format, Estimate]] = {unit: {} for unit in self._rounder.units}
        for unit, fmt in entries:
            if (unit, fmt) in estimates:
                rows[unit][fmt] = estimates[unit, fmt]
        done = self._stops[len(self._parts) - 1]
        powers = [(own.power, own.samples) for _, own in self._parts]
        return SensitivityTable(
            entries=rows,
            output_power=math.fsum(p * n for p, n in powers) / sum(n for _, n in powers),
            output=self._parts[0][1].output,
            samples=done,
            model_fingerprint=self._fingerprint,
            calibration_fingerprint=self._calibration.take(done).fingerprint,
            mode="auto",
            refused=self._refused,
            metric=self._setting.metric.name,
            outputs=dict(self._setting.metric.weights or {}),
        )

    def _part(self, index: int) -> tuple[Calibration, Reference]:
        """The samples that the next level after `index` adds."""
        while len(self._parts) <= index:
            known = len(self._parts)
            start = self._stops[known - 1] if known else 0
            part = self._calibration.part(start, self._stops[known])
            self._parts.append((part, Reference(self._model, part, self._setting.metric)))
        return self._parts[index]


def _stops(calibration: Calibration) -> list[int]:
    """How many samples each level has."""
    size = sample_count(calibration.batches[0]) if calibration.whole else 1
    stops = [min(size, calibration.samples)]
    while stops[-1] < calibration.samples:
        stops.append(min(2 * stops[-1], calibration.samples))
    return stops
