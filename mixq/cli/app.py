"""The tree of commands."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from mixq import __version__
from mixq.cli import analyze, apply, bench, evaluate, export, hardware, plan, report, search
from mixq.cli.command import Quiet, Verbose, command
from mixq.cli.console import show
from mixq.cli.examples import examples
from mixq.cli.loudness import is_verbose

app = typer.Typer(
    name="mixq",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Which layers of a PyTorch model can be 2, 4 or 8 bits, what that costs in accuracy, and "
    "what it buys on a named chip. Without --model, commands work on a small demo model that is "
    "part of mixq.",
    epilog=examples(),
)
app.command("search", epilog=examples("search"))(command(search.search))
app.command("analyze", epilog=examples("analyze"))(command(analyze.analyze))
app.command("apply", epilog=examples("apply"))(command(apply.apply))
app.command("export", epilog=examples("export"))(command(export.export))
app.command("bench", epilog=examples("bench"))(command(bench.bench))
app.command("evaluate", epilog=examples("evaluate"))(command(evaluate.evaluate))
app.command("report", epilog=examples("report"))(command(report.report))
app.add_typer(plan.app, name="plan")
app.add_typer(hardware.app, name="hardware")


LIBRARIES = ("torch", "optuna", "numpy", "transformers", "onnxruntime", "openvino")
"""What a report of a bug has to say beside mixq's own version."""


def _version(wanted: bool) -> None:
    if not wanted:
        return
    show(f"mixq {__version__}")
    if is_verbose():
        show(f"Python {platform.python_version()} on {platform.platform()}")
        for library in LIBRARIES:
            show(f"{library} {_installed(library)}")
    raise typer.Exit


def _installed(library: str) -> str:
    """Its version, without importing it."""
    try:
        return version(library)
    except PackageNotFoundError:
        return "is not installed"


@app.callback()
def _root(
    # Not eager, so that --verbose counts on either side of it.
    asked_version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_version,
            metavar="",
            help="Show the version; with --verbose, of Python and libraries too.",
        ),
    ] = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    pass
