"""mixq report: draw a run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mixq.cli import options
from mixq.cli.console import OutputFormat, show, show_json


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a search.")] = (
        options.DEFAULT_FOLDER
    ),
    format: options.Format = OutputFormat.table,
) -> None:
    """Draw the plots of a finished search again and show its plan."""
    from mixq.plan import Plan
    from mixq.report.folder import load_audit, redraw
    from mixq.report.tables import plan_table, summary

    plan = Plan.load(folder / "plan.json")
    files = redraw(folder, plan)
    audit = load_audit(folder)
    if format is OutputFormat.json:
        found = {} if audit is None else {"audit": audit.to_json()}
        show_json({**plan.to_json(), **found, "files": [str(file) for file in files]})
        return
    show(plan_table(plan), summary(plan))
    if audit is not None:
        show(f"audit: {audit.sentence}")
    show(f"Written to {folder}: {', '.join(file.name for file in files)}")
