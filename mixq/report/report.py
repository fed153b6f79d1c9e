"""The report's file."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mixq.files import write_text_atomic
from mixq.report.run import Run

REPORT: Final = "report.html"


def write_report(run: Run) -> Path:
    """Write `report.html` into the run's folder; the same run gives the same bytes.

    Raises:
        OutputError: if the file cannot be written.
        PlanError: if a number cannot be drawn.
    """
    from mixq.report.html.page import page

    path = run.folder / REPORT
    write_text_atomic(path, page(run))
    return path
