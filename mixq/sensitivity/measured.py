"""Measured sensitivity: quantize one unit, run the model, compare; for every unit and format.

Only what follows a unit is run (`Suffixes`), with the same bits as running the whole model, which
is done instead where a model cannot be taped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from mixq.calibration import Calibration
from mixq.errors import FormatError
from mixq.formats import Format
from mixq.graph.state import fingerprint
from mixq.graph.units import WeightUnit
from mixq.progress import Progress, silent, track
from mixq.rounding.replacement import Replacement
from mixq.rounding.rounder import Rounder
from mixq.sensitivity.engine import Engine
from mixq.sensitivity.estimate import Estimate
from mixq.sensitivity.reference import Reference
from mixq.sensitivity.store import Store
from mixq.sensitivity.table import SensitivityTable

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
        progress: is told how far it is.

    Raises:
        ModelError: if an output is NaN or infinite, naming the unit and the format.
        CalibrationError: if a batch does not fit the model.
        OutputError: if the store cannot be written; what it holds is kept.
    """
    listed = list(units)
    reference = reference or Reference(model, calibration)
    rounder = rounder or Rounder(model, {unit.name: unit for unit in listed})
    store = store or Store(None)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    steps = [(unit, fmt) for unit in listed for fmt in formats[unit.name]]
    missing = [step for step in steps if store.get(step[0].name, step[1].name) is None]
    entries: dict[str, dict[Format, Estimate]] = {unit.name: {} for unit in listed}
    refused: dict[tuple[str, str], str] = {}
    if missing:
        _measure(missing, len(steps), parameters, reference, rounder, store, refused, progress)
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
        refused=refused,
        metric=reference.metric.name,
        outputs=dict(reference.metric.weights or {}),
    )


def _measure(
    missing: list[tuple[WeightUnit, Format]],
    total: int,
    parameters: Mapping[str, Tensor],
    reference: Reference,
    rounder: Rounder,
    store: Store,
    refused: dict[tuple[str, str], str],
    progress: Progress,
) -> None:
    """Put what is missing into the store, and why the rest is refused."""
    engine = Engine(reference)
    ordered = sorted(missing, key=lambda step: engine.order(_names(rounder, *step)))
    for unit, fmt in track(ordered, STAGE, total, progress, done=total - len(missing)):
        try:
            replacement = rounder.replacement(unit.name, fmt)
        except FormatError as error:
            refused[unit.name, fmt.name] = str(error)
            continue
        errors = [0.0] * reference.samples
        if replacement.inputs or _differ(parameters, replacement):  # else nothing has to be run
            errors = engine.errors(unit.name, replacement, f"{unit.name} at {fmt.name}")
        store.put(unit.name, fmt.name, errors)


def _names(rounder: Rounder, unit: WeightUnit, fmt: Format) -> list[str]:
    """The tensors that a format of a unit replaces."""
    bias = rounder.biases.get(unit.name) if fmt.bias_corrected else None
    return [unit.name, *unit.aliases, *([] if bias is None else [bias])]


def _differ(parameters: Mapping[str, Tensor], replacement: Replacement) -> bool:
    return not all(torch.equal(parameters[name], t) for name, t in replacement.tensors.items())
