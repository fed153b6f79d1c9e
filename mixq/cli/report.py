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
    bench: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="bench.json of mixq bench; by default the one in DIR or DIR/bench.",
        ),
    ] = None,
    format: options.Format = OutputFormat.table,
) -> None:
    """Write DIR/report.html, the whole run on one page, draw its plots again and show its plan.

    The page needs no network. Of an analysis without a plan it shows the sensitivities.

    For example:

      mixq report mixq-run
    """
    from mixq.report.folder import redraw
    from mixq.report.report import write_report
    from mixq.report.run import Run
    from mixq.report.tables import plan_table, summary

    run = Run.load(folder, bench)
    files = [write_report(run), *redraw(run)]
    plan, audit = run.plan, run.audit
    if format is OutputFormat.json:
        known = run.table.to_json() if plan is None else plan.to_json()
        found = {} if audit is None else {"audit": audit.to_json()}
        show_json({**known, **found, "files": [str(file) for file in files]})
        return
    if plan is not None:
        show(plan_table(plan), summary(plan))
    if audit is not None:
        show(f"audit: {audit.sentence}")
    show(f"Written to {folder}: {', '.join(file.name for file in files)}")
