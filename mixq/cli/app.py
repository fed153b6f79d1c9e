"""The tree of commands."""

from __future__ import annotations

from typing import Annotated

import typer

from mixq import __version__
from mixq.cli import analyze, apply, bench, evaluate, export, hardware, plan, report, search
from mixq.cli.console import show

app = typer.Typer(
    name="mixq",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Which layers of a PyTorch model can be 2, 4 or 8 bits, what that costs in accuracy, and "
    "what it buys on a named chip.",
    epilog="Start with: **mixq search --target-compression 6 --hardware intel_cpu** "
    "(without --model it works on a small embedded demo model).",
)
app.command("search")(search.search)
app.command("analyze")(analyze.analyze)
app.command("apply")(apply.apply)
app.command("export")(export.export)
app.command("bench")(bench.bench)
app.command("evaluate")(evaluate.evaluate)
app.command("report")(report.report)
app.add_typer(plan.app, name="plan")
app.add_typer(hardware.app, name="hardware")


def _version(wanted: bool) -> None:
    if wanted:
        show(f"mixq {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass
