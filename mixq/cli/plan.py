"""mixq plan: show, check and compare plans."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mixq.cli import options
from mixq.cli.command import command, group
from mixq.cli.console import OutputFormat, show, show_json
from mixq.cli.examples import examples

app = typer.Typer(
    no_args_is_help=True, help="Show, check and compare plans.", epilog=examples("plan")
)
app.callback()(group)
File = Annotated[Path, typer.Argument(metavar="PLAN", help="A plan.json.")]


@app.command("show", epilog=examples("plan show"))
@command
def show_plan(plan: File, format: options.Format = OutputFormat.table) -> None:
    """Show a plan: every layer's format, what was predicted and what was measured."""
    from mixq.plan import Plan
    from mixq.report.tables import plan_table, summary

    loaded = Plan.load(plan)
    if format is OutputFormat.json:
        show_json(loaded.to_json())
        return
    show(plan_table(loaded), summary(loaded), *(f"note: {remark}" for remark in loaded.notes))


@app.command("check", epilog=examples("plan check"))
@command
def check(
    plan: File,
    model: Annotated[
        str | None, typer.Option("--model", metavar="SPEC", help="Check it against this model.")
    ] = None,
    trust_remote_code: options.TrustRemoteCode = False,
    format: options.Format = OutputFormat.table,
) -> None:
    """Check that a plan adds up, keeps its budget, and (with --model) fits the model.

    Exit status 1 names the first thing that does not hold.
    """
    from mixq.plan import Plan
    from mixq.plan_check import check_plan

    loaded = Plan.load(plan)
    checked = check_plan(loaded)
    if model is not None:
        from mixq.apply import check_fits
        from mixq.sources import load_model

        check_fits(loaded, load_model(model, trust_remote_code=trust_remote_code).model)
        checked.append("the model's weights are the plan's")
    if format is OutputFormat.json:
        show_json({"plan": str(plan), "holds": checked})
        return
    show(*(f"holds: {line}" for line in checked))


@app.command("diff", epilog=examples("plan diff"))
@command
def diff(first: File, second: File, format: options.Format = OutputFormat.table) -> None:
    """Show the layers whose formats differ between two plans of a model, and what that changes.

    Bytes and latency are predicted; errors are those on held-out and on calibration data, and what
    the layers' own add up to.
    """
    from mixq.plan import Plan
    from mixq.report.plan_diff import PlanDiff, diff_table

    one, other = Plan.load(first), Plan.load(second)
    if format is OutputFormat.json:
        show_json(PlanDiff.of(one, other).to_json())
        return
    show(diff_table(one, other))
