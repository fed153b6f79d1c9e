"""The Pareto plot as a self-contained HTML page."""

from __future__ import annotations

import math
from html import escape
from typing import Any

import plotly.graph_objects as go

from mixq.report.log_axis import LogAxis
from mixq.report.page import page as document
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
    describe,
)
from mixq.report.points import PlanPoint, PointKind


def page(view: ParetoView, title: str) -> str:
    """A whole HTML page; plotly.js is part of it and nothing is fetched."""
    return document(figure(view, title), title, "pareto")


def figure(view: ParetoView, title: str) -> go.Figure:
    """The plot alone; `customdata` is a point's position in `view.points`."""
    return go.Figure(data=_traces(view), layout=_layout(view, title))


def _traces(view: ParetoView) -> list[go.Scatter]:
    """One trace per kind, the chosen plan last and so on top; the line has a trace of its own."""
    outline = {"color": INK, "width": 0.7}
    uniform, named = view.kind("uniform"), view.labelled("uniform")
    left = dict(zip((point.name for point in named), view.label_is_left(named), strict=True))
    line_x, line_y = view.xy(view.frontier_line())
    line = go.Scatter(
        x=line_x,
        y=line_y,
        mode="lines",
        line={"color": FRONTIER_COLOUR, "width": 1.5},
        hoverinfo="skip",
        name=view.legend("frontier"),
        legendgroup="frontier",
    )
    drawn: list[tuple[PointKind, dict[str, Any]]] = [
        (
            "frontier",
            {
                "marker": {"size": 6, "line": {"color": FRONTIER_COLOUR, "width": 0.7}}
                | _colours(view, "frontier"),
                "showlegend": False,
            },
        ),
        ("trial", {"marker": {"size": 9, "line": outline} | _colours(view, "trial")}),
        (
            "uniform",
            {
                "mode": "markers+text",
                "text": [f" {escape(p.name)} " if p.name in left else "" for p in uniform],
                "textposition": [
                    f"middle {'left' if left.get(p.name) else 'right'}" for p in uniform
                ],
                "textfont": {"shadow": ", ".join(["0 0 2px white"] * 4)},
                "marker": {
                    "size": 12,
                    "symbol": "diamond",
                    "color": UNIFORM_COLOUR,
                    "line": outline,
                },
            },
        ),
        (
            "chosen",
            {
                "marker": {
                    "size": 20,
                    "symbol": "star",
                    "color": CHOSEN_COLOUR,
                    "line": {"color": "white", "width": 1.2},
                }
            },
        ),
    ]
    traces = [line] if line_x else []
    positions = {id(point): index for index, point in enumerate(view.points)}
    for kind, look in drawn:
        points = view.kind(kind)
        if points:
            x, y = view.xy(points)
            traces.append(
                go.Scatter(
                    **{
                        "x": x,
                        "y": y,
                        "mode": "markers",
                        "name": view.legend(kind),
                        "legendgroup": kind,
                        "customdata": [positions[id(point)] for point in points],
                        "hovertext": [_hover(point) for point in points],
                        "hovertemplate": "%{hovertext}<extra></extra>",
                        **look,
                    }
                )
            )
    return traces


def _colours(view: ParetoView, kind: PointKind) -> dict[str, Any]:
    """Marker colours of a kind by latency; frontier and trials share one scale."""
    if not view.latencies_differ:
        return {"color": LATENCY_COLOURS[1]}
    latencies_ms = [point.latency_s * 1e3 for point in view.kind(kind)]
    return {"color": latencies_ms, "coloraxis": "coloraxis"}


def _scale(view: ParetoView) -> dict[str, Any]:
    """The scale of latencies beside the plot, if they differ."""
    if not view.latencies_differ:
        return {}
    bar = {
        "title": {"text": LATENCY_TITLE, "side": "right"}, "thickness": 14, "outlinewidth": 0
    }  # fmt: skip
    return {"coloraxis": {"colorscale": list(LATENCY_COLOURS), "colorbar": bar}}


def _hover(point: PlanPoint) -> str:
    first, *rest = (escape(line) for line in (point.name, *describe(point)))
    return "<br>".join([f"<b>{first}</b>", *rest])


def _layout(view: ParetoView, title: str) -> go.Layout:
    return go.Layout(
        template="plotly_white",
        title={"text": escape(title), "x": 0.02, "xanchor": "left", "font": {"size": 20}},
        font={"color": INK, "size": 14},
        xaxis=_axis(view.size, SIZE_TITLE, view.size_labels("<br>")),
        yaxis=_axis(view.error, escape(view.error_title), view.error_labels()),
        # Above the plot, where no point can be.
        showlegend=True,
        legend={"orientation": "h", "x": 0, "y": 1.01, "xanchor": "left", "yanchor": "bottom"},
        hovermode="closest",
        hoverlabel={"align": "left", "font": {"size": 13}},
        margin={"l": 90, "r": 40, "t": 110, "b": 80},
        **_zero_line(view.error),
        **_scale(view),
    )


def _axis(axis: LogAxis, title: str, labels: list[str]) -> dict[str, Any]:
    return {
        "type": "log",
        "range": [math.log10(axis.low), math.log10(axis.high)],
        "title": {"text": title},
        "tickvals": list(axis.ticks()),
        "ticktext": labels,
        "ticks": "outside",
        "gridcolor": GRID_COLOUR,
        "linecolor": INK,
        "showline": True,
        "zeroline": False,
    }


def _zero_line(axis: LogAxis) -> dict[str, Any]:
    """A dotted line where errors of zero are drawn, and what it means."""
    if axis.zero is None:
        return {}
    place = {"xref": "paper", "yref": "y"}
    line = {"color": FRONTIER_COLOUR, "width": 1, "dash": "dot"}
    note = {"text": ZERO_LABEL, "showarrow": False, "font": {"size": 12}}
    # A shape on a logarithmic axis lies at the number itself, an annotation at its logarithm.
    at = {"x": 0.01, "y": math.log10(axis.zero), "xanchor": "left", "yanchor": "bottom"}
    return {
        "shapes": [
            place
            | {"x0": 0, "x1": 1, "y0": axis.zero, "y1": axis.zero, "line": line, "layer": "below"}
        ],
        "annotations": [place | note | at],
    }
