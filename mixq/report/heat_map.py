"""The map of sensitivities: units by formats, as a page to explore and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mixq.files import write_bytes_atomic, write_text_atomic
from mixq.formats import Format
from mixq.report.heat_view import HeatView
from mixq.sensitivity.table import SensitivityTable


def write_heat_html(
    table: SensitivityTable,
    path: str | Path,
    title: str,
    assignment: Mapping[str, Format] | None = None,
) -> None:
    """Write an interactive map that needs no network: plotly.js is in the file (4 to 5 MB).

    The same table gives the same bytes.

    Args:
        table: what was measured.
        path: of the file.
        title: of the page.
        assignment: formats that a plan chose, which are outlined.

    Raises:
        UsageError: if the table has no units.
        OutputError: if the file cannot be written.
    """
    from mixq.report.heat_plotly import page

    write_text_atomic(path, page(HeatView.of(table, assignment), title))


def write_heat_png(
    table: SensitivityTable,
    path: str | Path,
    title: str,
    assignment: Mapping[str, Format] | None = None,
) -> None:
    """Write the same map as a picture, as high as there are units.

    Raises:
        UsageError: if the table has no units.
        OutputError: if the file cannot be written.
    """
    from mixq.report.heat_matplotlib import picture

    write_bytes_atomic(path, picture(HeatView.of(table, assignment), title))
