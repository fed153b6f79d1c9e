"""Prepares a Rounder: collects what its methods need of the data, guards them, rounds all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from torch import nn

from mixq.activations.ranges import collect_ranges
from mixq.calibration import Calibration
from mixq.errors import CalibrationError
from mixq.formats import Format
from mixq.graph.state import fingerprint
from mixq.graph.units import WeightUnit
from mixq.moments.collect import collect
from mixq.moments.moments import Moments, combined
from mixq.progress import Progress, silent
from mixq.rounding.guard import guarded_formats
from mixq.rounding.rounder import Rounder
from mixq.rounding.store import RoundedStore

MOST_COLUMNS: Final = 4096
"""Columns up to which a unit is rounded by GPTQ: 2 CPU seconds for its inputs; 8,192 take 14, and
gigabytes."""
OBSERVER: Final = "mse"
"""How static ranges are found: on EfficientNet-Lite0, MiniLM and CREPE it errs 8 to 19% less than
the least and largest value seen; percentiles and entropy clip what transformers need."""


def prepare_rounder(
    model: nn.Module,
    units: Mapping[str, WeightUnit],
    formats: Mapping[str, Sequence[Format]],
    calibration: Calibration,
    *,
    ties: Sequence[Sequence[str]] = (),
    folder: Path | None = None,
    progress: Progress = silent,
) -> tuple[Rounder, dict[str, tuple[Format, ...]]]:
    """A rounder that has rounded every unit in its formats, and the formats, guarded.

    Units that no method sees data for cost nothing. See `guarded_formats` for what changes.

    Args:
        model: the original.
        units: of the model.
        formats: candidates by unit name.
        calibration: the last quarter of it judges what was learnt from the rest; then all of it
            is used.
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
        return Rounder(model, units), {unit: tuple(given) for unit, given in formats.items()}
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
    guarded = guarded_formats(model, units, formats, fitted, unseen, progress, ties=ties)
    moments = {
        unit: combined(own, unseen[unit]) if unit in unseen else own
        for unit, own in fitted.items()
    }
    static = [
        unit for unit in asked if any(fmt.activation == "static" for fmt in formats[unit.name])
    ]
    ranges = collect_ranges(model, calibration, static, OBSERVER, progress) if static else {}
    store = RoundedStore(folder, fingerprint(model), calibration.fingerprint)
    rounder = Rounder(
        model,
        units,
        moments,
        {unit: found.tensors() for unit, found in ranges.items()},
        store,
        calibration.fingerprint,
        notes=notes,
    )
    rounder.prepare(guarded, progress)
    return rounder, guarded
