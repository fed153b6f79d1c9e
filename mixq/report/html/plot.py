"""Plot: the Pareto plot of a report, the one of `pareto.html` in the report's own dress."""

from __future__ import annotations

import json
from typing import Any

from mixq.report.pareto_view import CHOSEN_COLOUR, ParetoView

SELECTED: str = "shown below"


def plot(view: ParetoView) -> dict[str, Any]:
    """Traces and layout as JSON values; the last trace rings the plan that is shown."""
    from mixq.report.pareto_plotly import figure

    drawn: dict[str, Any] = json.loads(str(figure(view, "").to_json()))
    layout = drawn["layout"]
    layout.pop("template", None)
    layout.pop("title", None)
    clear = "rgba(0,0,0,0)"
    layout |= {
        "paper_bgcolor": clear,
        "plot_bgcolor": clear,
        "autosize": True,
        "margin": {"l": 70, "r": 10, "t": 10, "b": 60},
        "showlegend": False,
        "font": {"size": 13, "family": "system-ui, sans-serif"},
    }
    for axis in ("xaxis", "yaxis"):
        layout[axis] |= {"showgrid": True, "automargin": True}
    ring = {"size": 26, "symbol": "circle-open", "color": CHOSEN_COLOUR, "line": {"width": 2}}
    drawn["data"].append(
        {
            "type": "scatter",
            "mode": "markers",
            "x": [],
            "y": [],
            "marker": ring,
            "hoverinfo": "skip",
            "showlegend": False,
            "name": SELECTED,
        }
    )
    return {"data": drawn["data"], "layout": layout}
