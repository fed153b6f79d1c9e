"""Heat: the map of sensitivities as rows of cells, each with its 95% interval as a line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mixq.files import one_line
from mixq.formats import Format
from mixq.report.heat_view import ERROR_COLOURS, ZERO_COLOUR, HeatCell, HeatView, cell_label
from mixq.report.heat_view import describe as describe_cell
from mixq.report.log_axis import number_label
from mixq.sensitivity.table import SensitivityTable

PRINTED_ROWS: Final = 80
"""Rows that are printed; on the screen all can be scrolled to."""


@dataclass(frozen=True)
class Cell:
    """One unit in one format.

    Attributes:
        text: its error, one digit; `spread` its standard error in percent of it.
        colour, ink: of the cell and of the text in it.
        low, high, at: ends of the interval and the error itself, in percent of the scale.
    """

    text: str
    spread: str
    colour: str
    ink: str
    low: float
    high: float
    at: float
    chosen: bool
    tip: str


@dataclass(frozen=True)
class HeatRow:
    """One unit; a cell is None where nothing was measured."""

    name: str
    begins_block: bool
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class Heat:
    """The map.

    Attributes:
        ticks: of the scale of colours: position in percent and label.
    """

    columns: tuple[str, ...]
    rows: tuple[HeatRow, ...]
    title: str
    samples: int
    ticks: tuple[tuple[float, str], ...]
    colours: tuple[str, ...] = ERROR_COLOURS
    printed: int = PRINTED_ROWS

    @classmethod
    def of(cls, table: SensitivityTable, assignment: Mapping[str, Format] | None) -> Heat:
        """The map of a table, with the formats that a plan chose marked."""
        view = HeatView.of(table, assignment)
        blocks = set(view.blocks())
        labels = [one_line(label) for label in view.labels()]
        rows = []
        for y, (unit, cells) in enumerate(zip(view.units, view.cells, strict=True)):
            named = zip(view.columns, cells, strict=True)
            rows.append(
                HeatRow(labels[y], y in blocks, tuple(_cell(view, unit, c, x) for c, x in named))
            )
        scale = view.scale
        ticks = [tick for tick in scale.ticks() if scale.low <= tick <= scale.high]
        return cls(
            view.columns, tuple(rows), view.title, view.samples,
            tuple((_percent(view, tick), number_label(tick)) for tick in ticks),
        )  # fmt: skip


def _cell(view: HeatView, unit: str, column: str, cell: HeatCell | None) -> Cell | None:
    if cell is None:
        return None
    tip = "; ".join(one_line(line) for line in describe_cell(view, unit, column, cell))
    if cell.shown == 0:
        return Cell("0", "", ZERO_COLOUR, ink_on(ZERO_COLOUR), 0, 0, -1, cell.chosen, tip)
    estimate = cell.estimate
    low, high = (end / view.power for end in estimate.interval())
    known = estimate.samples > 1 and estimate.error > 0
    spread = f"±{estimate.error_se / estimate.error:.0%}" if known else ""
    colour = mixed(view.place(cell))
    if math.isinf(high):
        low = high = cell.shown
    return Cell(
        cell_label(cell), spread, colour, ink_on(colour), _percent(view, low),
        _percent(view, high), _percent(view, cell.shown), cell.chosen, tip,
    )  # fmt: skip


def _percent(view: HeatView, value: float) -> float:
    """Where a value lies on the scale, cut at its ends."""
    if value <= view.scale.low:
        return 0.0
    place = (math.log10(value) - math.log10(view.scale.low)) / view.scale.decades
    return round(100 * min(place, 1.0), 1)


def mixed(place: float) -> str:
    """The colour at 0..1 of the scale, mixed from its neighbours."""
    steps = len(ERROR_COLOURS) - 1
    index = min(int(max(place, 0.0) * steps), steps - 1)
    share = min(max(place * steps - index, 0.0), 1.0)
    pairs = zip(_rgb(ERROR_COLOURS[index]), _rgb(ERROR_COLOURS[index + 1]), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)


def ink_on(colour: str) -> str:
    """`d` or `l`: whether black or white has more contrast on a colour (WCAG 2, 1.4.3)."""
    light = luminance(colour)
    return "d" if (light + 0.05) / 0.05 >= 1.05 / (light + 0.05) else "l"


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb`, 0 to 1 (WCAG 2)."""
    parts = (part / 255 for part in _rgb(colour))
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
