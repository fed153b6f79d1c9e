"""The audit as a self-contained HTML page."""

from __future__ import annotations

import math
from html import escape
from typing import Any, Final

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mixq.report.audit_view import (
    DIAGONAL,
    LEGEND,
    PAIRS_AXIS,
    PAIRS_TITLE,
    PLANS_TITLE,
    AuditView,
    Kind,
    describe,
)
from mixq.report.log_axis import number_label
from mixq.report.page import page as document
from mixq.report.pareto_view import (
    CHOSEN_COLOUR,
    FRONTIER_COLOUR,
    GRID_COLOUR,
    INK,
    LATENCY_COLOURS,
    UNIFORM_COLOUR,
)

MARKERS: Final[dict[Kind, dict[str, Any]]] = {
    "trial": {"size": 9, "color": LATENCY_COLOURS[1], "line": {"color": INK, "width": 0.7}},
    "uniform": {
        "size": 12, "symbol": "diamond", "color": UNIFORM_COLOUR,
        "line": {"color": INK, "width": 0.7},
    },
    "chosen": {
        "size": 20, "symbol": "star", "color": CHOSEN_COLOUR,
        "line": {"color": "white", "width": 1.2},
    },
}  # fmt: skip


def page(view: AuditView, title: str) -> str:
    """A whole HTML page; plotly.js is part of it and nothing is fetched."""
    figure = make_subplots(
        1, 2, column_widths=[0.6, 0.4], horizontal_spacing=0.28,
        subplot_titles=[PLANS_TITLE, PAIRS_TITLE],
    )  # fmt: skip
    axis = view.axis
    ends = [axis.low, axis.high]
    figure.add_trace(
        go.Scatter(
            x=ends, y=ends, mode="lines", name=DIAGONAL, hoverinfo="skip",
            line={"color": FRONTIER_COLOUR, "width": 1.5, "dash": "dash"},
        ),
        1, 1,
    )  # fmt: skip
    for kind, plans in view.plans.items():
        if not plans:
            continue
        x, y = view.xy(plans)
        hover = [
            "<br>".join([f"<b>{escape(plan.name)}</b>", *map(escape, describe(plan))])
            for plan in plans
        ]
        figure.add_trace(
            go.Scatter(
                x=x, y=y, mode="markers", name=LEGEND[kind], marker=MARKERS[kind],
                hovertext=hover, hovertemplate="%{hovertext}<extra></extra>",
            ),
            1, 1,
        )  # fmt: skip
    figure.add_trace(
        go.Bar(
            x=[bar.percent for bar in view.bars],
            # Names may repeat where they were cut, so rows are numbers and names their labels.
            y=list(range(len(view.bars))),
            orientation="h",
            error_x={"array": [bar.twice_se for bar in view.bars], "color": INK, "thickness": 1},
            marker={"color": [bar.colour for bar in view.bars]},
            hovertemplate="%{x:.2f}%<extra></extra>",
            showlegend=False,
        ),
        1, 2,
    )  # fmt: skip
    ticks = {
        "type": "log",
        "range": [math.log10(end) for end in ends],
        "tickvals": list(axis.ticks()),
        "ticktext": [number_label(tick) for tick in axis.ticks()],
        "gridcolor": GRID_COLOUR,
    }
    what = escape(view.error_title)
    figure.update_xaxes(title_text=f"added {what}", **ticks, row=1, col=1)
    figure.update_yaxes(title_text=f"measured {what}", **ticks, row=1, col=1)
    figure.update_xaxes(title_text=PAIRS_AXIS, gridcolor=GRID_COLOUR, row=1, col=2)
    figure.update_yaxes(
        tickvals=list(range(len(view.bars))),
        ticktext=["<br>x ".join(map(escape, bar.names)) for bar in view.bars],
        tickfont={"size": 11},
        autorange="reversed",
        row=1,
        col=2,
    )
    figure.update_layout(
        template="plotly_white",
        font={"color": INK, "size": 14},
        title={
            "text": f"{escape(title)}<br><sub>{escape(view.sentence)}</sub>",
            "x": 0.02,
            "xanchor": "left",
        },
        legend={"orientation": "h", "x": 0, "y": -0.12, "xanchor": "left", "yanchor": "top"},
        hovermode="closest",
        margin={"l": 90, "r": 40, "t": 130, "b": 110},
    )
    return document(figure, title, "audit")
