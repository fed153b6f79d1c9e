"""Prepares rounding: collects what its methods need of the data, guards them, rounds all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from torch import nn

from mixq.activations.ranges import collect_ranges
from mixq.calibration import Calibration
from mixq.errors import CalibrationError
from mixq.formats import METHODS, Format
from mixq.graph.state import fingerprint
from mixq.graph.units import WeightUnit
from mixq.moments.collect import collect
from mixq.moments.moments import Moments, combined
from mixq.progress import Progress, silent
from mixq.quantize.methods import learns
from mixq.rounding.guard import guarded_formats
from mixq.rounding.rounder import Rounder
from mixq.rounding.store import RoundedStore

MOST_COLUMNS: Final = 4096
"""Columns up to which a unit is rounded by GPTQ: 2 CPU seconds for its inputs; 8,192 take 14, and
gigabytes."""
OBSERVER: Final = "mse"
"""How static ranges are found: on EfficientNet-Lite0, MiniLM and CREPE it errs 8 to 19% less than
the least and largest value seen; percentiles and entropy clip what transformers need."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """Rounding to measure with, and rounding to deploy.

    What a rounding method has learnt of some samples says too little of its error on them: a
    classifier of 1,280 columns that met 24 vectors reproduces those at 2 bits. So errors are
    measured on samples that the measured codes have not seen, and only the chosen formats are
    rounded again with all.

    Attributes:
        rounder: what is measured; it has rounded every unit in its formats.
        formats: candidates by unit name, guarded.
        unseen: the samples that `rounder` has not learnt from; all if no method learns.
        unseen_moments: of the units' inputs on them; empty if no method learns.
        whole: gives a rounder that learns from all samples; `rounder` itself if no method does.
    """

    rounder: Rounder
    formats: Mapping[str, tuple[Format, ...]]
    unseen: Calibration
    whole: Callable[[], Rounder]
    unseen_moments: Mapping[str, Moments] = field(default_factory=dict)


def prepare_rounding(
    model: nn.Module,
    units: Mapping[str, WeightUnit],
    formats: Mapping[str, Sequence[Format]],
    calibration: Calibration,
    *,
    ties: Sequence[Sequence[str]] = (),
    folder: Path | None = None,
    progress: Progress = silent,
) -> Prepared:
    """Round every unit in every candidate format, those that `guarded_formats` lets pass.

    Units that no method sees data for cost nothing.

    Args:
        model: the original.
        units: of the model.
        formats: candidates by unit name.
        calibration: the last quarter of it judges what was learnt from the rest.
        ties: groups of units that take one format together, none in two of them.
        folder: where rounded weights are kept.
        progress: is told how far it is.
    """
    asked = [
        unit
        for name, unit in units.items()
        if any(fmt.needs_codes for fmt in formats.get(name, ()))
    ]
    if not asked:
        blind = Rounder(model, units)
        given = {unit: tuple(choices) for unit, choices in formats.items()}
        return Prepared(blind, given, calibration, lambda: blind)
    fitting, checking = calibration.split()
    notes: list[str] = []
    fitted: dict[str, Moments] = {}
    unseen: dict[str, Moments] = {}
    try:
        fitted = collect(model, fitting, asked, most_columns=MOST_COLUMNS, progress=progress)
        if checking is not None:
            unseen = collect(model, checking, asked, most_columns=MOST_COLUMNS, progress=progress)
    except CalibrationError as error:
        # Either torch's dispatch does not work on this model, or the data do not fit it, which
        # whoever runs the model next says again.
        fitted, unseen = {}, {}
        notes.append(
            f"rounding sees no data, because the inputs of layers could not be told: {error}"
        )
    static = [
        unit for unit in asked if any(fmt.activation == "static" for fmt in formats[unit.name])
    ]
    found = collect_ranges(model, calibration, static, OBSERVER, progress) if static else {}
    ranges = {unit: observed.tensors() for unit, observed in found.items()}
    weights = fingerprint(model)
    # Another version of a package may round otherwise.
    methods = {fmt.method for own in formats.values() for fmt in own}
    brought = "".join(f", {origin}" for origin in sorted(map(METHODS.origin, methods)) if origin)

    def learning(moments: Mapping[str, Moments], part: Calibration) -> Rounder:
        # Ranges are of all samples, whatever part moments are of.
        seen = f"{part.fingerprint} of {calibration.fingerprint}{brought}"
        return Rounder(
            model, units, moments, ranges, RoundedStore(folder, weights, seen), seen, notes=notes
        )

    def whole() -> Rounder:
        return learning(_together(fitted, unseen), calibration)

    rounder = learning(fitted, fitting)
    guarded = guarded_formats(rounder, formats, unseen, progress, ties=ties)
    if checking is None or not any(map(learns, (fmt for own in guarded.values() for fmt in own))):
        rounder = whole()
        rounder.prepare(guarded, progress)
        return Prepared(rounder, guarded, calibration, lambda: rounder)
    rounder.prepare(guarded, progress)
    return Prepared(rounder, guarded, checking, whole, unseen)


def _together(
    fitted: Mapping[str, Moments], unseen: Mapping[str, Moments]
) -> Mapping[str, Moments]:
    """Moments of both parts; units that share inputs share them still."""
    shared: dict[tuple[int, int], Moments] = {}
    together: dict[str, Moments] = {}
    for unit, own in fitted.items():
        other = unseen.get(unit)
        key = (id(own), id(other))
        if key not in shared:
            shared[key] = own if other is None else combined(own, other)
        together[unit] = shared[key]
    return together
