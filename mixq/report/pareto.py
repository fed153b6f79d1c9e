"""The Pareto plots: error against size, as a page to explore and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mixq.files import write_bytes_atomic, write_text_atomic
from mixq.report.pareto_view import ParetoView
from mixq.report.points import PlanPoint


def write_pareto_html(
    points: Sequence[PlanPoint], path: str | Path, title: str, metric: str = "mse"
) -> None:
    """Write an interactive plot that needs no network: plotly.js is in the file (4 to 5 MB).

    The same points give the same bytes.

    Raises:
        UsageError: if there are no points.
        OutputError: if the file cannot be written.
    """
    from mixq.report.pareto_plotly import page

    write_text_atomic(path, page(ParetoView.of(points, metric), title))


def write_pareto_png(
    points: Sequence[PlanPoint], path: str | Path, title: str, metric: str = "mse"
) -> None:
    """Write the same plot as a picture of 1200 x 800 pixels.

    Raises:
        UsageError: if there are no points.
        OutputError: if the file cannot be written.
    """
    from mixq.report.pareto_matplotlib import picture

    write_bytes_atomic(path, picture(ParetoView.of(points, metric), title))
