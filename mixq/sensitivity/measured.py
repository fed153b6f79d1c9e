"""Measured sensitivity: quantize one unit, run the model, compare; for every unit and format.

Only what follows a unit is run (`Suffixes`), with the same bits as running the whole model, which
is done instead where a model cannot be taped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Mapping, Sequence

from torch import nn

from mixq.calibration import Calibration
from mixq.errors import FormatError
from mixq.formats import Format
from mixq.graph.state import fingerprint
from mixq.graph.units import WeightUnit
from mixq.progress import Progress, silent, track
from mixq.rounding.rounder import Rounder
from mixq.sensitivity.bench import Bench, Found, Step
from mixq.sensitivity.estimate import Estimate
from mixq.sensitivity.reference import Reference
from mixq.sensitivity.store import Store
from mixq.sensitivity.table import SensitivityTable
from mixq.sensitivity.workers import measured_by

STAGE = "measuring sensitivities"


def measure(
    model: nn.Module,
    calibration: Calibration,
    units: Iterable[WeightUnit],
    formats: Mapping[str, Sequence[Format]],
    *,
    reference: Reference | None = None,
    rounder: Rounder | None = None,
    store: Store | None = None,
    workers: int = 1,
    progress: Progress = silent,
) -> SensitivityTable:
    """Output error of every unit in every one of its formats, alone.

    A unit whose quantization changes nothing has an error of exactly zero; 32 bits always has.

    Args:
        model: any module; left as it was.
        calibration: what it is run on.
        units: of the model.
        formats: candidate formats by unit name.
        reference: of the same model and calibration, if there is one already.
        rounder: what the formats make of the weights; by default one that knows no data.
        store: where measurements are kept and taken up again.
        workers: processes that measure; the table is the same for any number of them. Started by
            joblib, in the backend that is configured around the call.
        progress: is told how far it is.

    Raises:
        ModelError: if an output is NaN or infinite, naming the unit and the format; or the model
            cannot be sent to a worker.
        WorkerError: if a worker dies.
        CalibrationError: if a batch does not fit the model.
        OutputError: if the store cannot be written; what it holds is kept.
    """
    listed = list(units)
    reference = reference or Reference(model, calibration)
    rounder = rounder or Rounder(model, {unit.name: unit for unit in listed})
    store = store or Store(None)
    steps = [(unit, fmt) for unit in listed for fmt in formats[unit.name]]
    missing = [step for step in steps if store.get(step[0].name, step[1].name) is None]
    entries: dict[str, dict[Format, Estimate]] = {unit.name: {} for unit in listed}
    refused: dict[tuple[str, str], str] = {}
    if missing:
        found = (
            _measured(missing, reference, rounder)
            if workers == 1
            else measured_by(workers, missing, reference, rounder)
        )
        done = len(steps) - len(missing)
        with contextlib.closing(found):  # workers end here, whatever is raised
            for unit, fmt, result in track(found, STAGE, len(steps), progress, done=done):
                if isinstance(result, str):
                    refused[unit.name, fmt.name] = result
                else:
                    store.put(unit.name, fmt.name, result)
    for unit, fmt in steps:
        known = store.get(unit.name, fmt.name)
        if known is not None:
            entries[unit.name][fmt] = Estimate.of_errors(known)
    return SensitivityTable(
        entries=entries,
        output_power=reference.power,
        output=reference.output,
        samples=calibration.samples,
        model_fingerprint=fingerprint(model),
        calibration_fingerprint=calibration.fingerprint,
        refused={
            (u.name, f.name): refused[u.name, f.name]
            for u, f in steps
            if (u.name, f.name) in refused
        },
        metric=reference.metric.name,
        outputs=dict(reference.metric.weights or {}),
    )


def _measured(missing: Sequence[Step], reference: Reference, rounder: Rounder) -> Generator[Found]:
    """Errors of every sample, or why the unit does not take the format, one after the other."""
    bench = Bench(reference, rounder)
    for unit, fmt in bench.ordered(missing):
        try:
            yield unit, fmt, bench.errors(unit, fmt)
        except FormatError as error:
            yield unit, fmt, str(error)
