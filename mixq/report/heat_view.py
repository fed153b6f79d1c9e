"""HeatView: what the map of sensitivities shows, before any plotting library."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from mixq.errors import UsageError
from mixq.files import one_line
from mixq.formats import Format
from mixq.report.log_axis import LogAxis, number_label
from mixq.sensitivity.estimate import Estimate
from mixq.sensitivity.table import SensitivityTable

ERROR_TITLE: Final = "output error / mean square of the output"
ERROR_COLOURS: Final = ("#fef3d7", "#fbbf6b", "#ea6a3c", "#a81c4c", "#3b0f45")
"""From harmless to harmful; light to dark, so that it survives grey print and colour blindness."""
ZERO_COLOUR: Final = "#dcebe4"
MISSING_COLOUR: Final = "#e5e7eb"
DARK_FROM: Final = 0.5
"""Share of the scale from which on text in a cell is white."""
MAX: Final = 1e300
"""Larger errors are drawn as this, which can be rounded without becoming infinite."""
LONGEST_LABEL: Final = 42
"""Characters of a unit's name that are shown beside the map."""
MOST_NUMBERED: Final = 80
"""Rows up to which every cell has its number."""

KEYS: Final[tuple[Callable[[Format], str], ...]] = (
    lambda fmt: Format(fmt.bits, fmt.group_size, activation=fmt.activation).name,
    lambda fmt: Format(fmt.bits, fmt.group_size, fmt.grid, activation=fmt.activation).name,
    lambda fmt: fmt.name,
)
"""Names of columns, from short to whole; the first under which no unit has two formats is used."""


@dataclass(frozen=True)
class HeatCell:
    """One unit in one format.

    Attributes:
        shown: its error; squared errors over the mean square of the output.
        chosen: whether the plan has it.
    """

    format: Format
    estimate: Estimate
    shown: float
    chosen: bool


@dataclass(frozen=True)
class HeatView:
    """Units down, formats across, widest first; a cell is None where nothing was measured.

    Attributes:
        units: names of the rows, in the order of the table, which is the model's own.
        columns: names of the columns.
        cells: one row of cells per unit.
        title: what the numbers are.
        scale: logarithmic scale of errors that are not zero.
        power: what errors are divided by; 1 if the output is zero, so that errors stay.
        reasons: why a cell is empty, by unit and column name, where that is known.
        samples: that were measured on.
    """

    units: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[HeatCell | None, ...], ...]
    title: str
    scale: LogAxis
    power: float
    reasons: Mapping[tuple[str, str], str]
    samples: int

    @classmethod
    def of(
        cls, table: SensitivityTable, assignment: Mapping[str, Format] | None = None
    ) -> HeatView:
        """The view of a table, and of the formats that a plan chose.

        Formats of 32 bits, which err by nothing, are shown only where a plan has them.

        Raises:
            UsageError: if the table has no units.
        """
        if not table.entries:
            raise UsageError("a map of 0 units shows nothing; measure at least one")
        chosen = assignment or {}
        squared = table.metric == "mse"
        power = (table.output_power or 1.0) if squared else 1.0
        kept = any(fmt.bits == 32 for fmt in chosen.values())
        rows = {
            unit: {fmt: e for fmt, e in row.items() if kept or fmt.bits < 32 or e.error > 0}
            for unit, row in table.entries.items()
        }
        if not any(rows.values()):
            rows = {unit: dict(row) for unit, row in table.entries.items()}
        key = next(key for key in KEYS if _tells_apart(key, rows))
        formats = {fmt for row in rows.values() for fmt in row}
        columns = tuple(dict.fromkeys(map(key, sorted(formats, key=_rank))))
        cells = []
        for unit, row in rows.items():
            named = {
                key(fmt): HeatCell(fmt, e, min(e.error / power, MAX), chosen.get(unit) == fmt)
                for fmt, e in row.items()
            }
            cells.append(tuple(named.get(column) for column in columns))
        return cls(
            units=tuple(rows),
            columns=columns,
            cells=tuple(cells),
            title=ERROR_TITLE if squared else f"output error ({one_line(table.metric)})",
            scale=_scale([cell.shown for row in cells for cell in row if cell]),
            power=power,
            reasons={
                (unit, key(Format.parse(name))): reason
                for (unit, name), reason in table.refused.items()
            },
            samples=table.samples,
        )

    def place(self, cell: HeatCell) -> float:
        """Where the error of a cell lies on the scale, from 0 to 1; NaN for an error of zero."""
        if cell.shown == 0:
            return math.nan
        return (math.log10(cell.shown) - math.log10(self.scale.low)) / self.scale.decades

    def labels(self) -> list[str]:
        """The units' names, short and unique: without what all of them share."""
        return short_names(self.units)

    def blocks(self) -> list[int]:
        """Rows with which a new block of the network begins, such as another layer's.

        None where blocks are hardly larger than units, so that lines would tell nothing.
        """
        keys = [_block(name) for name in self.units]
        rows = [row for row, (one, other) in enumerate(pairwise(keys), 1) if one != other]
        return rows if len(rows) < len(keys) / 2 else []

    @property
    def has_zeros(self) -> bool:
        """Whether an error is exactly zero."""
        return any(cell is not None and cell.shown == 0 for row in self.cells for cell in row)

    def chosen(self) -> list[tuple[int, int]]:
        """(row, column) of the cells that the plan has."""
        return [
            (y, x)
            for y, row in enumerate(self.cells)
            for x, cell in enumerate(row)
            if cell is not None and cell.chosen
        ]


def cell_label(cell: HeatCell) -> str:
    """The number in a cell, one digit: `0.01`, `3·10⁻⁵`."""
    return "0" if cell.shown == 0 else number_label(float(f"{cell.shown:.1g}"))


def describe(view: HeatView, unit: str, column: str, cell: HeatCell | None) -> list[str]:
    """What there is to say about one cell, in lines: unit, format, error, interval."""
    if cell is None:
        return [unit, column, view.reasons.get((unit, column), "not measured here")]
    estimate = cell.estimate
    lines = [unit, f"{cell.format.name}{', in the plan' if cell.chosen else ''}"]
    if cell.shown == 0:
        return [*lines, f"no error at all, on {estimate.samples} samples"]
    low, high = (end / view.power for end in estimate.interval())
    if math.isinf(high):
        return [*lines, f"error {cell.shown:.3g}", "one sample: how far off is not known"]
    return [
        *lines,
        f"error {cell.shown:.3g} ± {estimate.error_se / view.power:.1g}",
        f"95%: {low:.3g} to {high:.3g} ({estimate.samples} samples)",
    ]


def short_names(names: Sequence[str]) -> list[str]:
    """Names without the parts that all share at the start, without `.weight`, cut in the middle.

    Names that this would make equal stay as they are.
    """
    parts = [name.split(".") for name in names]
    shared = 0
    while (
        len(names) > 1
        and all(len(p) > shared + 1 for p in parts)
        and (len({p[shared] for p in parts}) == 1)
    ):
        shared += 1
    short = [_cut(".".join(p[shared:]).removesuffix(".weight")) for p in parts]
    counts = {name: short.count(name) for name in short}
    return [name if counts[name] == 1 else full for name, full in zip(short, names, strict=True)]


def _cut(name: str) -> str:
    if len(name) <= LONGEST_LABEL:
        return name
    start = LONGEST_LABEL // 3
    return f"{name[:start]}…{name[start + 1 - LONGEST_LABEL :]}"


def _block(name: str) -> tuple[str, ...]:
    """A name up to its first number, or up to its first part."""
    parts = name.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdecimal()), 0)
    return tuple(parts[: number + 1])


def _tells_apart(
    key: Callable[[Format], str], rows: Mapping[str, Mapping[Format, object]]
) -> bool:
    return all(len(set(map(key, row))) == len(row) for row in rows.values())


def _rank(fmt: Format) -> tuple[object, ...]:
    """Widest first, then the fewest scales, then without rounded activations, then by name."""
    return (-fmt.bits, fmt.activation != "none", -(fmt.group_size or 1 << 30), fmt.name)


def _scale(values: Sequence[float]) -> LogAxis:
    """From the least to the largest error that is not zero, at least a decade."""
    positive = [value for value in values if value > 0]
    if not positive:
        return LogAxis(0.1, 1.0)
    low, high = min(positive), max(positive)
    return LogAxis(min(low, high / 10), high)
