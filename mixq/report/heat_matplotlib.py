"""The map of sensitivities as a picture."""

from __future__ import annotations

import math
from io import BytesIO
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke

from mixq.report.heat_view import (
    DARK_FROM,
    ERROR_COLOURS,
    MISSING_COLOUR,
    MOST_NUMBERED,
    ZERO_COLOUR,
    HeatView,
    cell_label,
)
from mixq.report.log_axis import number_label
from mixq.report.pareto_view import FRONTIER_COLOUR, INK

DOTS_PER_INCH: Final = 100
ROW_IN: Final = 0.22
OUTLINE: Final = 0.14
"""Width of the outline of a chosen cell, as a share of a row."""
LEAST_ROW_IN: Final = 0.06
"""Of maps that would else be higher than MOST_IN; not every row has a label then."""
MOST_IN: Final = 60.0
COLUMN_IN: Final = 0.95
CHARACTER_IN: Final = 0.075
TOP_IN: Final = 1.05
BOTTOM_IN: Final = 0.65
RIGHT_IN: Final = 1.25
LEAST_WIDTH_IN: Final = 8.0
LABEL_PT: Final = 9
MATRIX: Final = LinearSegmentedColormap.from_list("error", list(ERROR_COLOURS))


def picture(view: HeatView, title: str) -> bytes:
    """A PNG, as high as there are rows, up to 6,000 pixels beside its edges."""
    rows, columns = len(view.units), len(view.columns)
    row_in = min(ROW_IN, max(LEAST_ROW_IN, MOST_IN / rows))
    labels = view.labels()
    left = 0.3 + CHARACTER_IN * max(map(len, labels))
    width = max(left + COLUMN_IN * columns + RIGHT_IN, LEAST_WIDTH_IN)
    height = TOP_IN + row_in * rows + BOTTOM_IN
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH)
    FigureCanvasAgg(figure)
    share = row_in * rows / height
    plot = (left / width, BOTTOM_IN / height, 1 - (left + RIGHT_IN) / width, share)
    axes = figure.add_axes(plot)
    _draw_cells(axes, view)
    _draw_labels(axes, view, labels, row_in)
    if rows <= MOST_NUMBERED:
        _draw_numbers(axes, view)
    for y, x in view.chosen():
        line = OUTLINE * 72 * row_in
        box = Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor=INK, linewidth=line)
        box.set_path_effects([withStroke(linewidth=2.2 * line, foreground="white")])
        box.set_zorder(4)
        axes.add_patch(box)
    _draw_scale(figure, view, (1 - 0.95 / width, plot[1], 0.16 / width, plot[3]), row_in * rows)
    # parse_math=False, because a model may have dollar signs in its name.
    figure.text(0.15 / width, 1 - 0.33 / height, title, fontsize=14, color=INK, parse_math=False)
    what = f"{view.title}, one layer alone; {view.samples} samples"
    figure.text(0.15 / width, 1 - 0.58 / height, what, fontsize=LABEL_PT, color=FRONTIER_COLOUR)
    _draw_legend(axes, view, 0.12 / (row_in * rows))
    file = BytesIO()
    # Without the name and version of the software the same map is the same file.
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _draw_cells(axes: Axes, view: HeatView) -> None:
    rows, columns = len(view.units), len(view.columns)
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    background = Rectangle((-0.5, -0.5), columns, rows, facecolor="white", hatch="////")
    background.set(edgecolor=MISSING_COLOUR, linewidth=0)
    axes.add_patch(background)
    values = np.array([[math.nan if c is None else c.shown for c in row] for row in view.cells])
    x, y = np.arange(columns + 1) - 0.5, np.arange(rows + 1) - 0.5
    zero = LinearSegmentedColormap.from_list("zero", [ZERO_COLOUR] * 2)
    norm = LogNorm(view.scale.low, view.scale.high)
    width = 1.0 if rows <= MOST_NUMBERED else 0.0  # lines between cells would hide low ones
    zeros, errors = (np.ma.masked_where(~hit, values) for hit in (values == 0, values > 0))
    axes.pcolormesh(x, y, zeros, cmap=zero, edgecolors="white", linewidth=width)
    axes.pcolormesh(x, y, errors, cmap=MATRIX, norm=norm, edgecolors="white", linewidth=width)
    for row in view.blocks():
        axes.plot([-0.5, columns - 0.5], [row - 0.5] * 2, color=FRONTIER_COLOUR, linewidth=0.8)


def _draw_labels(axes: Axes, view: HeatView, labels: list[str], row_in: float) -> None:
    """As many labels as do not overlap."""
    every = max(1, math.ceil(LABEL_PT * 1.25 / 72 / row_in))
    ticks = list(range(0, len(labels), every))
    axes.set_yticks(ticks, [labels[tick] for tick in ticks], parse_math=False)
    axes.set_xticks(range(len(view.columns)), list(view.columns))
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=LABEL_PT, colors=INK)
    axes.spines[:].set_visible(False)


def _draw_numbers(axes: Axes, view: HeatView) -> None:
    for y, row in enumerate(view.cells):
        for x, cell in enumerate(row):
            if cell is not None:
                dark = cell.shown > 0 and view.place(cell) > DARK_FROM
                axes.text(
                    x, y, cell_label(cell), ha="center", va="center", fontsize=LABEL_PT - 1,
                    color="white" if dark else INK,
                )  # fmt: skip


def _draw_scale(
    figure: Figure, view: HeatView, place: tuple[float, float, float, float], height_in: float
) -> None:
    """The scale of colours, no higher than four inches, at the top."""
    left, bottom, width, height = place
    share = min(1.0, 4 / height_in)
    axes = figure.add_axes((left, bottom + height * (1 - share), width, height * share))
    colours = ScalarMappable(LogNorm(view.scale.low, view.scale.high), MATRIX)
    bar = figure.colorbar(colours, cax=axes)
    ticks = view.scale.ticks()
    bar.set_ticks(list(ticks), labels=[number_label(tick) for tick in ticks])
    bar.minorticks_off()
    bar.ax.tick_params(labelsize=LABEL_PT, colors=INK)
    bar.outline.set_visible(False)


def _draw_legend(axes: Axes, view: HeatView, gap: float) -> None:
    marks: list[Patch | Line2D] = []
    if view.chosen():
        marks.append(Patch(fill=False, edgecolor=INK, linewidth=2.2, label="chosen plan"))
    if view.has_zeros:
        marks.append(Patch(facecolor=ZERO_COLOUR, label="no error at all"))
    if any(None in row for row in view.cells):
        hatched = Patch(facecolor="white", edgecolor=FRONTIER_COLOUR, hatch="////", linewidth=0)
        hatched.set_label("not a candidate")
        marks.append(hatched)
    if marks:
        axes.legend(
            handles=marks, loc="upper left", bbox_to_anchor=(0, -gap), borderaxespad=0, ncols=3,
            frameon=False, fontsize=LABEL_PT, labelcolor=INK,
        )  # fmt: skip
