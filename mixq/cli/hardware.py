"""mixq hardware: the chips that mixq knows."""

from __future__ import annotations

from typing import Annotated

import typer

from mixq.cli import options, predict
from mixq.cli.console import OutputFormat, show, show_json

app = typer.Typer(no_args_is_help=True, help="The chips that mixq knows, and their kernels.")
app.command("predict")(predict.predict)


@app.command("list")
def list_profiles(
    everything: Annotated[
        bool,
        typer.Option("--all", help="Also chips that only occur in published measurements."),
    ] = False,
    format: options.Format = OutputFormat.table,
) -> None:
    """List the shipped hardware profiles."""
    from mixq.profiles import available, load
    from mixq.report.hardware import profiles_table

    profiles = [load(name) for name in available(published=everything)]
    if format is OutputFormat.json:
        facts = ("name", "description", "default_runtime", "default_threads", "searchable")
        show_json({"profiles": [{fact: getattr(p, fact) for fact in facts} for p in profiles]})
        return
    show(profiles_table(profiles))


@app.command("show")
def show_profile(
    name: Annotated[
        str, typer.Argument(metavar="NAME|FILE.toml", help="A shipped profile or your own file.")
    ],
    runtime: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only the kernels of this runtime.")
    ] = None,
    format: options.Format = OutputFormat.table,
) -> None:
    """Show a profile: rates, bandwidths, and the kernels of each runtime."""
    from mixq.profiles import load
    from mixq.report.hardware import kernels_tables, profile_facts, profile_json

    profile = load(name)
    if format is OutputFormat.json:
        show_json(profile_json(profile, runtime))
        return
    show(profile_facts(profile), *kernels_tables(profile, runtime))
