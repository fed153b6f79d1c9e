"""The layer whose weights a report shows, and their histogram in the run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mixq.formats import Format
from mixq.graph.units import WeightUnit
from mixq.quantize.counting import count_weights
from mixq.sensitivity.table import SensitivityTable

if TYPE_CHECKING:
    from torch import nn

HISTOGRAM: Final = "histogram.json"
FEW: Final = 2000
"""Weights below which a histogram shows little; layers of more are preferred."""


def most_sensitive(
    table: SensitivityTable, units: Mapping[str, WeightUnit]
) -> tuple[str, Format] | None:
    """The unit that errs most in the narrowest width, each in its best format of that width.

    Returns:
        Its name and that format; the first of several; None if nothing but 32 bits was measured.
    """
    widths = {fmt.bits for row in table.entries.values() for fmt in row if fmt.bits < 32}
    if not widths:
        return None
    narrowest = min(widths)
    best = {
        unit: min((fmt for fmt in row if fmt.bits == narrowest), key=lambda fmt: row[fmt].error)
        for unit, row in table.entries.items()
        if any(fmt.bits == narrowest for fmt in row)
    }
    large = [name for name in best if units[name].rows * units[name].columns >= FEW]
    unit = max(large or best, key=lambda name: table.entries[name][best[name]].error)
    return unit, best[unit]


def leave_histogram(
    folder: Path | None,
    model: nn.Module,
    units: Mapping[str, WeightUnit],
    table: SensitivityTable,
) -> None:
    """Write `histogram.json` of the most sensitive unit, which a report cannot count itself.

    Args:
        folder: of the run; without one nothing is written.
        model: whose weights they are.
        units: of the model, by name.
        table: their sensitivities.

    Raises:
        OutputError: if the file cannot be written.
    """
    found = None if folder is None else most_sensitive(table, units)
    if folder is None or found is None:
        return
    name, fmt = found
    own = units[name]
    weight = dict(model.named_parameters(remove_duplicate=False))[name]
    picture = count_weights(
        weight, own.rows, own.columns, unit=name, error=table.entries[name][fmt].error,
        error_format=fmt.name,
    )  # fmt: skip
    if picture is not None:
        picture.save(folder / HISTOGRAM)
