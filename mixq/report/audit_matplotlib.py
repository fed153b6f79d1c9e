"""The audit as a picture."""

from __future__ import annotations

from io import BytesIO
from textwrap import fill
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mixq.report.audit_view import (
    DIAGONAL,
    LEGEND,
    NO_PAIRS,
    PAIRS_AXIS,
    PAIRS_TITLE,
    PLANS_TITLE,
    AuditView,
    Kind,
)
from mixq.report.log_axis import number_label
from mixq.report.pareto_view import (
    CHOSEN_COLOUR,
    FRONTIER_COLOUR,
    GRID_COLOUR,
    INK,
    LATENCY_COLOURS,
    UNIFORM_COLOUR,
)

DOTS_PER_INCH: Final = 100
SIZE_IN: Final = (13, 7)
PLANS: Final = (0.075, 0.11, 0.4, 0.68)
PAIRS: Final = (0.72, 0.11, 0.26, 0.68)
"""Left, bottom, width and height of the two plots, as shares of the picture."""
TEXT_PT: Final = 11
LINE: Final = 150
"""Characters that fit beside each other."""
LOOKS: Final[dict[Kind, dict[str, Any]]] = {
    "trial": {"s": 50, "color": LATENCY_COLOURS[1], "edgecolors": INK, "linewidths": 0.7},
    "uniform": {
        "s": 80, "marker": "D", "color": UNIFORM_COLOUR, "edgecolors": INK, "linewidths": 0.7
    },
    "chosen": {
        "s": 380, "marker": "*", "color": CHOSEN_COLOUR, "edgecolors": "white", "linewidths": 1.2
    },
}  # fmt: skip


def picture(view: AuditView, title: str) -> bytes:
    """A PNG of 1300 x 700 pixels, the same bytes for the same view."""
    figure = Figure(figsize=SIZE_IN, dpi=DOTS_PER_INCH)
    FigureCanvasAgg(figure)
    # parse_math=False, because a model may have dollar signs in its name.
    figure.text(0.02, 0.94, title, fontsize=16, color=INK, parse_math=False)
    said = fill(view.sentence, LINE)
    figure.text(0.02, 0.915, said, fontsize=TEXT_PT, color=INK, va="top", parse_math=False)
    _draw_plans(figure.add_axes(PLANS), view)
    _draw_pairs(figure.add_axes(PAIRS), view)
    file = BytesIO()
    # Without the name and version of the software the same plot is the same file.
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _draw_plans(axes: Axes, view: AuditView) -> None:
    axis = view.axis
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(axis.low, axis.high)
    axes.set_ylim(axis.low, axis.high)
    labels = [number_label(tick) for tick in axis.ticks()]
    axes.set_xticks(axis.ticks(), labels)
    axes.set_yticks(axis.ticks(), labels)
    axes.minorticks_off()
    axes.plot(
        [axis.low, axis.high], [axis.low, axis.high],
        color=FRONTIER_COLOUR, linewidth=1.2, linestyle="--", zorder=1, label=DIAGONAL,
    )  # fmt: skip
    for order, (kind, plans) in enumerate(view.plans.items(), start=2):
        if plans:
            axes.scatter(*view.xy(plans), zorder=order, label=LEGEND[kind], **LOOKS[kind])
    axes.set_xlabel(f"added {view.error_title}", fontsize=TEXT_PT, color=INK, parse_math=False)
    axes.set_ylabel(f"measured {view.error_title}", fontsize=TEXT_PT, color=INK, parse_math=False)
    axes.legend(loc="upper left", frameon=False, fontsize=TEXT_PT - 1, labelcolor=INK)
    _dress(axes, PLANS_TITLE)


def _draw_pairs(axes: Axes, view: AuditView) -> None:
    rows = range(len(view.bars))
    axes.barh(
        rows, [bar.percent for bar in view.bars], xerr=[bar.twice_se for bar in view.bars],
        color=[bar.colour for bar in view.bars], height=0.7,
        error_kw={"ecolor": INK, "elinewidth": 1, "capsize": 2},
    )  # fmt: skip
    names = ["\nx ".join(bar.names) for bar in view.bars]
    axes.set_yticks(list(rows), names, parse_math=False)
    axes.invert_yaxis()
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_xlabel(PAIRS_AXIS if view.bars else NO_PAIRS, fontsize=TEXT_PT - 1, color=INK)
    _dress(axes, PAIRS_TITLE, right=True)
    axes.tick_params(axis="y", labelsize=TEXT_PT - 3, length=0)


def _dress(axes: Axes, title: str, *, right: bool = False) -> None:
    axes.tick_params(labelsize=TEXT_PT - 1, colors=INK)
    axes.grid(color=GRID_COLOUR, axis="x" if right else "both")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    # A title as wide as its plot and the names beside it.
    axes.set_title(
        title, fontsize=TEXT_PT + 1, color=INK, loc="right" if right else "left", pad=10
    )
