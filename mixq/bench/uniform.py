"""Uniform plans: one format for every unit, rounded by mixq's own methods, and none at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from torch import nn

from mixq import __version__
from mixq.activations.inputs import quantizable_inputs
from mixq.calibration import Calibration
from mixq.errors import FormatError
from mixq.formats import Format
from mixq.graph.find import find_units
from mixq.graph.state import fingerprint, stored_tensors
from mixq.graph.units import WeightUnit
from mixq.plan import Plan
from mixq.plan_parts import (
    CertificateInfo,
    HardwareInfo,
    Layer,
    Measurement,
    ModelInfo,
    Prediction,
    Workload,
)
from mixq.progress import Progress, silent
from mixq.rounding.prepare import prepare_rounding
from mixq.rounding.rounder import Rounder

FLOAT: Final = Format(32)
UNPREDICTED: Final = "none"
"""The chip of a plan that nothing was predicted for."""


def float_plan(model: nn.Module, name: str = "model") -> Plan:
    """The plan that leaves every unit as it is: its file is the runtime's own 32 bits.

    Raises:
        ModelError: if the model has no unit, or a weight is NaN or infinite.
    """
    units = {unit.name: unit for unit in find_units(model)}
    return bare_plan(model, name, units, dict.fromkeys(units, FLOAT), ())


def uniform_plan(
    model: nn.Module,
    calibration: Calibration,
    fmt: Format,
    *,
    name: str = "model",
    progress: Progress = silent,
) -> Plan:
    """The plan that gives every unit one format; see `uniform_plans`."""
    return uniform_plans(model, calibration, [fmt], name=name, progress=progress)[fmt]


def uniform_plans(
    model: nn.Module,
    calibration: Calibration,
    formats: Sequence[Format],
    *,
    name: str = "model",
    progress: Progress = silent,
) -> dict[Format, Plan]:
    """A plan of one format everywhere for each format; the data are gathered once.

    As in a search, `gptq` learns from the calibration where a test on its last quarter says that
    it suffices, and is `clip` elsewhere; then it learns from all of it. A unit that cannot take
    the format gets the nearest one that it can: without rounded activations where nothing single
    enters it (embeddings, recurrent matrices), else 32 bits. The plan's notes say which.

    Args:
        model: the original.
        calibration: whole, as a search is given it.
        formats: of fewer than 32 bits.
        name: of the model.
        progress: is told how far it is.

    Raises:
        ModelError: if the model has no unit, or a weight is NaN or infinite.
        CalibrationError: if the model does not take the data.
    """
    units = {unit.name: unit for unit in find_units(model)}
    entered = quantizable_inputs(model, list(units.values()))
    asked = {
        unit: tuple(dict.fromkeys(_plain(fmt) if unit not in entered else fmt for fmt in formats))
        for unit in units
    }
    prepared = prepare_rounding(model, units, asked, calibration, progress=progress)
    rounder = prepared.whole()
    plans = {}
    for fmt in formats:
        assignment = {
            unit: _legal(rounder, unit, _chosen(prepared.formats[unit], fmt, unit in entered))
            for unit in units
        }
        plan = bare_plan(
            model, name, units, assignment, (*rounder.notes, *_changed(assignment, fmt))
        )
        weights = rounder.plan_weights(assignment)
        plans[fmt] = plan if weights is None else plan.with_weights(weights)
    return plans


def _plain(fmt: Format) -> Format:
    """The format with activations as they are."""
    return replace(fmt, activation="none")


def _chosen(guarded: Sequence[Format], fmt: Format, is_entered: bool) -> Format:
    """What the guard made of a format: the same, or `clip` in place of `gptq`."""
    wanted = fmt if is_entered else _plain(fmt)
    return wanted if wanted in guarded else replace(wanted, method="clip")


def _legal(rounder: Rounder, unit: str, fmt: Format) -> Format:
    """The format, or the nearest one in which the unit can be rounded."""
    for own in dict.fromkeys((fmt, _plain(fmt))):
        try:
            rounder.packed(unit, own)
        except FormatError:
            continue
        return own
    return FLOAT


def _changed(assignment: Mapping[str, Format], fmt: Format) -> list[str]:
    """Which units could not take the format, a sentence for each that they took."""
    others: dict[str, list[str]] = {}
    for unit, own in assignment.items():
        if replace(own, method="rtn") != replace(fmt, method="rtn"):
            others.setdefault(own.name, []).append(unit)
    return [
        f"{len(units)} of {len(assignment)} units cannot take {fmt.name} and get {own}: "
        + ", ".join(units[:3])
        + (" ..." if len(units) > 3 else "")
        for own, units in others.items()
    ]


def bare_plan(
    model: nn.Module,
    name: str,
    units: Mapping[str, WeightUnit],
    assignment: Mapping[str, Format],
    notes: Sequence[str],
) -> Plan:
    """A plan with exact bytes, and without predictions of time and error."""
    stored = stored_tensors(model)
    original = sum(item.original_bytes for item in stored)
    sizes = {item.names[0]: item.stored_bytes for item in stored}
    sizes |= {unit: units[unit].stored_bytes(fmt) for unit, fmt in assignment.items()}
    total = sum(sizes.values())
    return Plan(
        mixq_version=__version__,
        seed=0,
        model=ModelInfo(
            name=name,
            fingerprint=fingerprint(model),
            parameters=sum(item.elements for item in stored if item.is_parameter),
            original_bytes=original,
        ),
        hardware=HardwareInfo(name=UNPREDICTED, fingerprint="", runtime=UNPREDICTED, threads=1),
        workload=Workload(batch_size=1),
        budget={},
        layers={unit: _layer(units[unit], fmt) for unit, fmt in assignment.items()},
        predicted=Prediction(
            compression=original / max(total, 1), weight_bytes=total, latency_s=0.0,
            baseline_latency_s=0.0, peak_memory_bytes=0, error=0.0,
        ),
        measured=Measurement(error=0.0, output_mse=0.0, relative_output_mse=0.0),
        certificate=CertificateInfo(objective=0.0, lower_bound=0.0, gap=0.0, solver="uniform"),
        notes=list(notes),
    )  # fmt: skip


def _layer(unit: WeightUnit, fmt: Format) -> Layer:
    return Layer(
        bits=fmt.bits,
        group_size=fmt.group_size,
        grid=fmt.grid,
        activation=fmt.activation,
        method=fmt.method,
        bias_corrected=fmt.bias_corrected,
        weight_bytes=unit.stored_bytes(fmt),
        latency_s=0.0,
        error=0.0,
        error_se=0.0,
        shape=list(unit.shape),
        matrix=(unit.rows, unit.columns),
        aliases=list(unit.aliases),
    )
