"""The Pareto plot as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from mixq.report.pareto_view import (
    CHOSEN_COLOUR,
    FRONTIER_COLOUR,
    GRID_COLOUR,
    INK,
    LATENCY_COLOURS,
    LATENCY_TITLE,
    SIZE_TITLE,
    UNIFORM_COLOUR,
    ZERO_LABEL,
    ParetoView,
)
from mixq.report.points import PlanPoint

DOTS_PER_INCH: Final = 100
SIZE_IN: Final = (12, 8)
LABEL_PT: Final = 12
PLOT: Final = (0.085, 0.11, 0.815, 0.77)
SCALE: Final = (0.915, 0.11, 0.014, 0.77)
"""Left, bottom, width and height of the plot and of the latency scale, as shares of the picture.

Fixed, because matplotlib's own layouts shrink the plot to make room for a long legend.
"""


def picture(view: ParetoView, title: str) -> bytes:
    """A PNG of 1200 x 800 pixels.

    The figure is built by itself, without pyplot, so that no state of the caller's is touched.
    """
    figure = Figure(figsize=SIZE_IN, dpi=DOTS_PER_INCH)
    FigureCanvasAgg(figure)
    axes = figure.add_axes(PLOT)
    _draw_axes(axes, view)
    _draw_frontier(axes, view)
    _draw_trials(axes, view)
    _draw_scale(figure, view)
    _draw_uniform(axes, view)
    _draw_chosen(axes, view)
    # parse_math=False, because a plan or model may have dollar signs in its name.
    figure.text(0.02, 0.95, title, fontsize=16, color=INK, parse_math=False)
    # Above the plot, where no point can be.
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        borderaxespad=0.3,
        columnspacing=1.5,
        ncols=4,
        frameon=False,
        fontsize=LABEL_PT - 1,
        labelcolor=INK,
    )
    file = BytesIO()
    # Without the name and version of the software the same plot is the same file.
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _draw_axes(axes: Axes, view: ParetoView) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(view.size.low, view.size.high)
    axes.set_ylim(view.error.low, view.error.high)
    axes.set_xticks(view.size.ticks(), view.size_labels("\n"))
    axes.set_yticks(view.error.ticks(), view.error_labels())
    axes.minorticks_off()
    axes.tick_params(labelsize=LABEL_PT, colors=INK)
    axes.set_xlabel(SIZE_TITLE, fontsize=LABEL_PT, color=INK)
    # A loss may have dollar signs in its name.
    axes.set_ylabel(view.error_title, fontsize=LABEL_PT, color=INK, parse_math=False)
    axes.grid(color=GRID_COLOUR)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if view.error.zero is not None:
        axes.axhline(view.error.zero, color=FRONTIER_COLOUR, linewidth=1, linestyle=":")
        axes.annotate(
            ZERO_LABEL,
            (0.01, view.error.zero),
            xycoords=("axes fraction", "data"),
            xytext=(0, 4),
            textcoords="offset points",
            fontsize=LABEL_PT - 2,
            color=INK,
        )


def _draw_frontier(axes: Axes, view: ParetoView) -> None:
    points = view.kind("frontier")
    if points:
        x, y = view.xy(view.frontier_line())
        name = view.legend("frontier")
        axes.plot(x, y, color=FRONTIER_COLOUR, linewidth=1.5, zorder=2, label=name)
        x, y = view.xy(points)
        axes.scatter(
            x,
            y,
            s=16,
            edgecolors=FRONTIER_COLOUR,
            linewidths=0.7,
            zorder=2,
            **_colours(view, points),
        )


def _draw_trials(axes: Axes, view: ParetoView) -> None:
    points = view.kind("trial")
    if points:
        x, y = view.xy(points)
        axes.scatter(
            x, y, s=55, edgecolors=INK, linewidths=0.7, zorder=3, label=view.legend("trial"),
            **_colours(view, points),
        )  # fmt: skip


def _colours(view: ParetoView, points: Sequence[PlanPoint]) -> dict[str, Any]:
    """Colours by latency; frontier and trials share one scale."""
    if not view.latencies_differ:
        return {"color": LATENCY_COLOURS[1]}
    scale = _latencies(view)
    return {"c": [p.latency_s * 1e3 for p in points], "cmap": scale.cmap, "norm": scale.norm}


def _latencies(view: ParetoView) -> ScalarMappable:
    coloured = [p.latency_s * 1e3 for p in (*view.kind("frontier"), *view.kind("trial"))]
    return ScalarMappable(
        Normalize(min(coloured), max(coloured)),
        LinearSegmentedColormap.from_list("latency", LATENCY_COLOURS),
    )


def _draw_scale(figure: Figure, view: ParetoView) -> None:
    """The scale of latencies beside the plot, if they differ."""
    if view.latencies_differ:
        bar = figure.colorbar(_latencies(view), cax=figure.add_axes(SCALE))
        bar.set_label(LATENCY_TITLE, fontsize=LABEL_PT, color=INK)
        bar.ax.tick_params(labelsize=LABEL_PT - 1, colors=INK)
        bar.outline.set_visible(False)


def _draw_uniform(axes: Axes, view: ParetoView) -> None:
    points = view.kind("uniform")
    if not points:
        return
    x, y = view.xy(points)
    axes.scatter(
        x,
        y,
        s=90,
        marker="D",
        color=UNIFORM_COLOUR,
        edgecolors=INK,
        linewidths=0.7,
        zorder=4,
        label=view.legend("uniform"),
    )
    halo = withStroke(linewidth=3, foreground="white")
    named = view.labelled("uniform")
    for point, px, py, left in zip(named, *view.xy(named), view.label_is_left(named), strict=True):
        axes.annotate(
            point.name,
            (px, py),
            xytext=(-9 if left else 9, 0),
            textcoords="offset points",
            ha="right" if left else "left",
            va="center",
            path_effects=[halo],
            fontsize=LABEL_PT,
            color=INK,
            zorder=5,
            parse_math=False,
        )


def _draw_chosen(axes: Axes, view: ParetoView) -> None:
    points = view.kind("chosen")
    if points:
        x, y = view.xy(points)
        axes.scatter(
            x,
            y,
            s=420,
            marker="*",
            color=CHOSEN_COLOUR,
            edgecolors="white",
            linewidths=1.2,
            zorder=6,
            label=view.legend("chosen"),
        )
