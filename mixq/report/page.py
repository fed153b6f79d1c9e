"""Page: a plotly figure as an HTML file of its own."""

from __future__ import annotations

from html import escape

import plotly.graph_objects as go


def page(
    figure: go.Figure, title: str, name: str, *, style: str = "", height: str = "100%"
) -> str:
    """A whole HTML page; plotly.js is part of it and nothing is fetched.

    Args:
        figure: what it shows.
        title: of the page.
        name: of the element, so that equal figures are equal files.
        style: CSS beside what makes the figure fill the page.
        height: of the figure.
    """
    body = figure.to_html(
        full_html=False,
        include_plotlyjs=True,
        div_id=name,
        default_width="100%",
        default_height=height,
        config={"displaylogo": False, "responsive": True},
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        f"<title>{escape(title)}</title>"
        f"<style>html, body, body > div {{ height: 100%; margin: 0; }}{style}</style></head>\n"
        f"<body>{body}</body>\n</html>\n"
    )
