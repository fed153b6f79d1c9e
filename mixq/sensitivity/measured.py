"""Measured sensitivity: quantize one unit, run the model, compare; for every unit and format.

This is the plain loop whose values faster engines must reproduce.
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
from mixq.quantize.weights import round_trip
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
        store: where measurements are kept and taken up again.
        progress: is told how far it is.

    Raises:
        ModelError: if an output is NaN or infinite, naming the unit and the format.
        CalibrationError: if a batch does not fit the model.
        OutputError: if the store cannot be written; what it holds is kept.
    """
    listed = list(units)
    reference = reference or Reference(model, calibration)
    store = store or Store(None)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    steps = [(unit, fmt) for unit in listed for fmt in formats[unit.name]]
    missing = [step for step in steps if store.get(step[0].name, step[1].name) is None]
    entries: dict[str, dict[Format, Estimate]] = {unit.name: {} for unit in listed}
    refused: dict[tuple[str, str], str] = {}
    for unit, fmt in track(missing, STAGE, len(steps), progress, done=len(steps) - len(missing)):
        try:
            weight = quantized(parameters[unit.name], unit, fmt)
        except FormatError as error:
            refused[unit.name, fmt.name] = str(error)
            continue
        errors = _errors(parameters[unit.name], weight, unit, fmt, reference)
        store.put(unit.name, fmt.name, errors)
    for unit, fmt in steps:
        known = store.get(unit.name, fmt.name)
        if known is not None:
            entries[unit.name][fmt] = Estimate.of(known)
    return SensitivityTable(
        entries=entries,
        output_power=reference.power,
        output=reference.output,
        samples=calibration.samples,
        model_fingerprint=fingerprint(model),
        calibration_fingerprint=calibration.fingerprint,
        refused=refused,
    )


def quantized(parameter: Tensor, unit: WeightUnit, fmt: Format) -> Tensor:
    """The weights of `unit` as the model would see them in `fmt`."""
    return round_trip(parameter, fmt, unit.rows, unit.columns)


def replacement(unit: WeightUnit, weight: Tensor) -> dict[str, Tensor]:
    """`weight` under every name that the model has for `unit`."""
    return dict.fromkeys((unit.name, *unit.aliases), weight)


def _errors(
    original: Tensor,
    weight: Tensor,
    unit: WeightUnit,
    fmt: Format,
    reference: Reference,
) -> list[float]:
    if torch.equal(original, weight):  # nothing changes, so nothing has to be run
        return [0.0] * reference.samples
    return reference.errors(replacement(unit, weight), f"{unit.name} at {fmt.name}")
