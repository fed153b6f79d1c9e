"""How a sensitivity table is shown in a notebook and as rows for data frames and CSV."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from mixq.html_table import format_cell, html_block, html_table

if TYPE_CHECKING:
    from mixq.sensitivity.table import SensitivityTable

COLUMNS: Final = {
    "unit": "str",
    "format": "str",
    "bits": "int64",
    "error": "float64",
    "error_se": "float64",
    "relative_error": "float64",
    "low_95": "float64",
    "high_95": "float64",
}
"""Columns of sensitivity.csv and of `SensitivityTable.to_pandas()`: the error in the table's
metric, its standard error and 95% interval, and the error over the power of the output where it is
a squared one."""


def table_rows(table: SensitivityTable) -> Iterator[tuple[object, ...]]:
    """One row per (unit, format) with `COLUMNS`; None where there is no relative error."""
    for unit, row in table.entries.items():
        for fmt, entry in row.items():
            relative: float | None = None
            if table.metric == "mse":
                relative = entry.error / table.output_power if table.output_power else 0.0
            elif table.metric == "relative":
                relative = entry.error
            numbers = (entry.error, entry.error_se, relative, *entry.interval())
            yield (unit, fmt.name, fmt.bits, *numbers)


def table_html(table: SensitivityTable) -> str:
    """One row per unit: the least error that a format of each width has."""
    widths = sorted({fmt.bits for row in table.entries.values() for fmt in row}, reverse=True)

    def row_of(unit: str) -> tuple[object, ...]:
        errors = {
            bits: [e.error for fmt, e in table.entries[unit].items() if fmt.bits == bits]
            for bits in widths
        }
        cells = (f"{min(found):.2e}" if found else "-" for found in errors.values())
        return (unit, *("0" if cell == "0.00e+00" else cell for cell in cells))

    metric = "" if table.metric == "mse" else f" ({table.metric})"
    return html_block(
        html_table(
            ("layer", *(format_cell(f"{bits} bits", bits) for bits in widths)),
            map(row_of, table.entries),
            title=f"output error{metric} of each layer alone, in its best format of each width",
            caption=f"{table.mode}, {table.samples} samples",
            total=len(table.entries),
            see_all="to_pandas() has every format, with standard errors",
        )
    )
