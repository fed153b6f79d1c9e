"""The plot of a bench as a self-contained HTML page."""

from __future__ import annotations

from html import escape

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mixq.report.bench_view import (
    MAPPED,
    MAPPED_COLOUR,
    PREDICTED,
    PRIVATE,
    PRIVATE_COLOUR,
    BenchView,
    Panel,
)
from mixq.report.page import page as document
from mixq.report.pareto_view import GRID_COLOUR, INK


def page(view: BenchView) -> str:
    """A whole HTML page; plotly.js is part of it and nothing is fetched."""
    figure = make_subplots(
        1, len(view.panels), shared_yaxes=True, horizontal_spacing=0.03,
        subplot_titles=[panel.title for panel in view.panels],
    )  # fmt: skip
    rows = list(range(len(view.names)))
    for column, panel in enumerate(view.panels, start=1):
        for trace in _traces(panel, view, rows):
            figure.add_trace(trace, 1, column)
    figure.update_xaxes(gridcolor=GRID_COLOUR, rangemode="tozero")
    figure.update_yaxes(
        # Names may repeat where they were cut, so rows are numbers and names their labels.
        tickvals=rows,
        ticktext=[escape(name).replace("\n", "<br>") for name in view.names],
        autorange="reversed",
    )
    figure.update_layout(
        template="plotly_white",
        barmode="stack",
        font={"color": INK, "size": 14},
        title={
            "text": f"{escape(view.title)}<br><sub>{escape(view.sentence)}</sub>",
            "x": 0.02,
            "xanchor": "left",
        },
        legend={"orientation": "h", "x": 0, "y": -0.12, "xanchor": "left", "yanchor": "top"},
        margin={"l": 190, "r": 40, "t": 130, "b": 110},
    )
    return document(figure, view.title, "bench")


def _traces(panel: Panel, view: BenchView, rows: list[int]) -> list[go.Bar | go.Scatter]:
    bars: list[go.Bar | go.Scatter] = [
        go.Bar(
            x=panel.values, y=rows, orientation="h", name=PRIVATE, text=panel.labels,
            textposition="none" if panel.second else "outside", cliponaxis=False,
            showlegend=bool(panel.second), hovertemplate="%{text}<extra></extra>",
            marker={"color": PRIVATE_COLOUR if panel.second else list(view.colours)},
        )
    ]  # fmt: skip
    if panel.second:
        bars.append(
            go.Bar(
                x=panel.second, y=rows, orientation="h", name=MAPPED, text=panel.labels,
                textposition="outside", cliponaxis=False,
                hovertemplate="%{x:.3g} MB, %{text}<extra></extra>",
                marker={"color": MAPPED_COLOUR},
            )
        )  # fmt: skip
    for row, low, high in zip(rows, panel.low, panel.high, strict=False):
        bars.append(
            go.Scatter(
                x=[low, high], y=[row, row], mode="lines", hoverinfo="skip", showlegend=False,
                line={"color": INK, "width": 2},
            )
        )  # fmt: skip
    marked = [(row, mark) for row, mark in enumerate(panel.marks) if mark is not None]
    if marked:
        bars.append(
            go.Scatter(
                x=[mark for _, mark in marked], y=[row for row, _ in marked], mode="markers",
                name=PREDICTED, hovertemplate="predicted %{x:.3g}<extra></extra>",
                marker={"symbol": "diamond", "size": 11, "color": "white",
                        "line": {"color": INK, "width": 1.5}},
            )
        )  # fmt: skip
    return bars
