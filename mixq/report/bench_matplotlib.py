"""The plot of a bench as a picture."""

from __future__ import annotations

from io import BytesIO
from typing import Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mixq.report.bench_view import (
    MAPPED,
    MAPPED_COLOUR,
    PREDICTED,
    PRIVATE,
    PRIVATE_COLOUR,
    BenchView,
    Panel,
)
from mixq.report.pareto_view import GRID_COLOUR, INK

DOTS_PER_INCH: Final = 100
WIDTH_IN: Final = 13.0
ROW_IN: Final = 0.62
HEAD_IN, FOOT_IN = 1.35, 0.95
LEFT, RIGHT, GAP = 0.2, 0.985, 0.035
TEXT_PT: Final = 10
LABEL_ROOM: Final = 1.6
"""Length of an axis over its longest bar, so that labels find room."""


def picture(view: BenchView) -> bytes:
    """A PNG 1300 pixels wide, the same bytes for the same view."""
    rows = len(view.names)
    height = HEAD_IN + FOOT_IN + ROW_IN * rows
    figure = Figure(figsize=(WIDTH_IN, height), dpi=DOTS_PER_INCH)
    FigureCanvasAgg(figure)
    # parse_math=False, because a model may have dollar signs in its name.
    top = 1 - 0.4 / height
    figure.text(0.02, top, view.title, fontsize=15, color=INK, parse_math=False)
    figure.text(
        0.02, top - 0.3 / height, view.sentence, fontsize=TEXT_PT, color=INK, parse_math=False
    )
    width = (RIGHT - LEFT - GAP * (len(view.panels) - 1)) / len(view.panels)
    for index, panel in enumerate(view.panels):
        axes = figure.add_axes(
            (LEFT + index * (width + GAP), FOOT_IN / height, width, ROW_IN * rows / height)
        )
        _draw(axes, panel, view)
        axes.set_yticks(list(range(rows)), view.names if index == 0 else [], parse_math=False)
    file = BytesIO()
    # Without the name and version of the software the same plot is the same file.
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _draw(axes: Axes, panel: Panel, view: BenchView) -> None:
    rows = range(len(panel.values))
    ends = list(panel.values)
    if panel.second:
        axes.barh(rows, panel.values, color=PRIVATE_COLOUR, height=0.6, label=PRIVATE)
        axes.barh(
            rows, panel.second, left=panel.values, color=MAPPED_COLOUR, height=0.6, label=MAPPED
        )
        ends = [one + two for one, two in zip(panel.values, panel.second, strict=True)]
    else:
        axes.barh(rows, panel.values, color=view.colours, height=0.6)
    if panel.high:
        ends = list(panel.high)
        for row, low, high in zip(rows, panel.low, panel.high, strict=True):
            axes.plot([low, high], [row, row], color=INK, linewidth=1.4)
    marked = [(row, mark) for row, mark in enumerate(panel.marks) if mark is not None]
    if marked:
        axes.scatter(
            [mark for _, mark in marked], [row for row, _ in marked], marker="D", s=42,
            facecolors="white", edgecolors=INK, zorder=3, label=PREDICTED,
        )  # fmt: skip
        for row, mark in marked:
            ends[row] = max(ends[row], mark)
    longest = max(ends, default=0.0) or 1.0
    for row, end, label in zip(rows, ends, panel.labels, strict=True):
        axes.text(
            end + longest * 0.05, row, label, va="center", fontsize=TEXT_PT, color=INK,
            parse_math=False,
        )  # fmt: skip
    axes.set_xlim(0, longest * LABEL_ROOM)
    axes.invert_yaxis()
    axes.set_title(panel.title, fontsize=TEXT_PT + 1, color=INK, loc="left")
    axes.tick_params(labelsize=TEXT_PT, colors=INK)
    axes.tick_params(axis="y", length=0)
    axes.grid(color=GRID_COLOUR, axis="x")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if panel.second or marked:
        axes.legend(
            loc="upper left", bbox_to_anchor=(0, -0.28 * 4 / (len(rows) + 3)), frameon=False,
            fontsize=TEXT_PT - 1, labelcolor=INK, ncols=2,
        )  # fmt: skip
