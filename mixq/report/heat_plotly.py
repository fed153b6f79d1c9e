"""The map of sensitivities as a self-contained HTML page."""

from __future__ import annotations

import math
from html import escape
from typing import Any, Final

import plotly.graph_objects as go

from mixq.report.heat_view import (
    DARK_FROM,
    ERROR_COLOURS,
    MOST_NUMBERED,
    ZERO_COLOUR,
    HeatCell,
    HeatView,
    cell_label,
    describe,
)
from mixq.report.log_axis import number_label
from mixq.report.page import page as document
from mixq.report.pareto_view import FRONTIER_COLOUR, INK

ROW_PX: Final = 22
NARROW_ROW_PX: Final = 13
"""Of maps with more rows than have numbers in them."""
EDGES_PX: Final = 150
DARK: Final = """
@media (prefers-color-scheme: dark) {
body { background: #111827; }
.infolayer text, .xaxislayer-above text, .yaxislayer-above text, .legend text
{ fill: #e5e7eb !important; }
}"""
"""Colours for readers whose system is dark: plotly writes its own into the page."""


def page(view: HeatView, title: str) -> str:
    """A whole HTML page; plotly.js is part of it and nothing is fetched."""
    height = EDGES_PX + _row_px(view) * len(view.units)
    figure = go.Figure(data=_traces(view), layout=_layout(view, title, height))
    return document(figure, title, "sensitivity", style=DARK, height=f"{height}px")


def _row_px(view: HeatView) -> int:
    return ROW_PX if len(view.units) <= MOST_NUMBERED else NARROW_ROW_PX


def _traces(view: HeatView) -> list[Any]:
    """Errors, exact zeros in a colour of their own, and outlines of what the plan has."""
    places = [[None if c is None else view.place(c) for c in row] for row in view.cells]
    errors = [[None if p is None or math.isnan(p) else p for p in row] for row in places]
    zeros = [[0 if p is not None and math.isnan(p) else None for p in row] for row in places]
    hover = [
        [_hover(view, unit, column, cell) for column, cell in zip(view.columns, row, strict=True)]
        for unit, row in zip(view.units, view.cells, strict=True)
    ]
    gaps: dict[str, Any] = {"xgap": 1, "ygap": 1}
    ticks = [tick for tick in view.scale.ticks() if view.scale.low <= tick <= view.scale.high]
    traces: list[Any] = [
        go.Heatmap(
            z=zeros,
            colorscale=[ZERO_COLOUR, ZERO_COLOUR],
            showscale=False,
            hoverinfo="skip",
            **gaps,
        ),
        go.Heatmap(
            z=errors,
            zmin=0,
            zmax=1,
            colorscale=list(ERROR_COLOURS),
            colorbar={
                "tickvals": [
                    (math.log10(tick) - math.log10(view.scale.low)) / view.scale.decades
                    for tick in ticks
                ],
                "ticktext": [number_label(tick) for tick in ticks],
                "thickness": 14,
                "outlinewidth": 0,
                "lenmode": "pixels",
                "len": min(420, max(160, _row_px(view) * len(view.units))),
                "y": 1,
                "yanchor": "top",
            },
            hovertext=hover,
            hovertemplate="%{hovertext}<extra></extra>",
            hoverongaps=True,  # zeros have a text too, and what is missing says why
            **gaps,
        ),
    ]
    numbers = _numbers(view)
    if numbers is not None:
        traces.append(numbers)
    if view.blocks():
        ends = -0.5, len(view.columns) - 0.5
        borders = [[(x, row - 0.5) for x in ends] for row in view.blocks()]
        traces.append(_lines(borders, FRONTIER_COLOUR, 1, showlegend=False))
    if view.chosen():
        traces += _outlines(view)
    if view.has_zeros:
        traces.append(_zero_mark())
    return traces


def _numbers(view: HeatView) -> Any:
    """A number in every cell, where there is room."""
    if len(view.units) > MOST_NUMBERED:
        return None
    cells = [
        (x, y, cell)
        for y, row in enumerate(view.cells)
        for x, cell in enumerate(row)
        if cell is not None
    ]
    return go.Scatter(
        x=[x for x, _, _ in cells],
        y=[y for _, y, _ in cells],
        mode="text",
        text=[cell_label(cell) for _, _, cell in cells],
        textfont={
            "size": 11,
            "color": ["white" if _is_dark(view, cell) else INK for _, _, cell in cells],
        },
        hoverinfo="skip",
        showlegend=False,
    )


def _is_dark(view: HeatView, cell: HeatCell) -> bool:
    return cell.shown > 0 and view.place(cell) > DARK_FROM


def _lines(parts: list[list[tuple[float, float]]], colour: str, width: float, **more: Any) -> Any:
    """Lines in one trace; its parts are parted by None."""
    return go.Scatter(
        x=[None if point is None else point[0] for part in parts for point in (*part, None)],
        y=[None if point is None else point[1] for part in parts for point in (*part, None)],
        mode="lines",
        line={"color": colour, "width": width},
        hoverinfo="skip",
        **more,
    )


def _outlines(view: HeatView) -> list[Any]:
    """One line around each chosen cell, on a white one, so that it shows on dark cells too."""
    boxes = [
        [(x - 0.5, y - 0.5), (x + 0.5, y - 0.5), (x + 0.5, y + 0.5), (x - 0.5, y + 0.5)]
        for y, x in view.chosen()
    ]
    closed = [[*box, box[0]] for box in boxes]
    named = {"name": "chosen plan", "legendgroup": "chosen"}
    return [
        _lines(closed, "white", 5.5, **named, showlegend=False),
        _lines(closed, INK, 2.5, **named),
    ]


def _zero_mark() -> Any:
    """A mark for the legend alone."""
    return go.Scatter(
        x=[None],
        y=[None],
        mode="markers",
        marker={"symbol": "square", "size": 14, "color": ZERO_COLOUR},
        name="no error at all",
    )


def _hover(view: HeatView, unit: str, column: str, cell: HeatCell | None) -> str:
    first, *rest = (escape(line) for line in describe(view, unit, column, cell))
    return "<br>".join([f"<b>{first}</b>", *rest])


def _layout(view: HeatView, title: str, height: int) -> go.Layout:
    numbers = list(range(len(view.units)))
    return go.Layout(
        template="plotly_white",
        title={
            "text": f"{escape(title)}<br><sup>{escape(view.title)}, one layer alone; "
            f"{view.samples} samples; hover for 95% intervals</sup>",
            "x": 0.02,
            "xanchor": "left",
            "y": 1,
            "yanchor": "top",
            "pad": {"t": 22},
            "font": {"size": 20},
        },
        font={"color": INK, "size": 13},
        height=height,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        xaxis={
            "side": "top",
            "tickvals": list(range(len(view.columns))),
            "ticktext": list(view.columns),
            "range": [-0.5, len(view.columns) - 0.5],
            "showgrid": False,
            "zeroline": False,
            "fixedrange": True,
        },
        yaxis={
            "tickvals": numbers,
            "ticktext": [escape(label) for label in view.labels()],
            "tickfont": {"size": 12 if _row_px(view) == ROW_PX else 10},
            "range": [len(view.units) - 0.5, -0.5],
            "automargin": True,
            "showgrid": False,
            "zeroline": False,
        },
        showlegend=True,
        legend={"orientation": "h", "x": 0, "y": 0, "xanchor": "left", "yanchor": "top"},
        hovermode="closest",
        hoverlabel={"align": "left", "font": {"size": 13}},
        margin={"l": 20, "r": 40, "t": 100, "b": 50},
        modebar={"bgcolor": "rgba(0,0,0,0)"},
    )
