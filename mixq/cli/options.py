"""Options that most commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mixq.cli import complete
from mixq.cli.console import OutputFormat
from mixq.cli.panels import RUN, SUBJECT

DEFAULT_FOLDER = Path("mixq-run")

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="SPEC",
        help="package.module:function or file.py:function that returns the model (or model, "
        "calibration, evaluate), a Hugging Face folder, or a .pt2 file. Default: the demo.",
        rich_help_panel=SUBJECT,
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run the Python code that a Hugging Face folder brings along (auto_map in its "
        "config.json). Without it mixq runs code of no file but that of a module:function.",
        rich_help_panel=SUBJECT,
    ),
]
Calibration = Annotated[
    str | None,
    typer.Option(
        "--calibration",
        metavar="SPEC",
        help="package.module:function, .safetensors, .npz, or a text file for language models.",
        rich_help_panel=SUBJECT,
    ),
]
_HARDWARE = typer.Option(
    "--hardware",
    metavar="NAME|FILE.toml",
    help="A chip; see mixq hardware list.",
    autocompletion=complete.hardware,
    rich_help_panel=SUBJECT,
)
Hardware = Annotated[str, _HARDWARE]
HardwareOrRecipes = Annotated[str | None, _HARDWARE]
Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="NAME|FILE.toml",
        help="Hardware, formats and demands for a kind of deployment: cpu_server, gpu_server, "
        "mobile_device, edge_device, or a file of yours. Options that are given go before it.",
    ),
]
HardwareOrRecipes = Annotated[str | None, _HARDWARE]
Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="NAME|FILE.toml",
        help="Hardware, formats and demands for a kind of deployment: cpu_server, gpu_server, "
        "mobile_device, edge_device, or a file of yours. Options that are given go before it.",
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="NAME|FILE.toml",
        help="Hardware, formats and demands for a kind of deployment: cpu_server, gpu_server, "
        "mobile_device, edge_device, or a file of yours. Options that are given go before it.",
        autocompletion=complete.recipes,
        rich_help_panel=SUBJECT,
    ),
]
_SAMPLES_PER_PASS = "Samples per forward pass of the workload."
BatchSize = Annotated[
    int,
    typer.Option(
        "--batch-size",
        min=1,
        help=_SAMPLES_PER_PASS,
        rich_help_panel=SUBJECT,
    ),
]
BatchSizeOrRecipes = Annotated[
    int | None, typer.Option("--batch-size", min=1, help=f"{_SAMPLES_PER_PASS} Default: 1.")
]
BatchSizeOrRecipes = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        min=1,
        help=f"{_SAMPLES_PER_PASS} Default: 1.",
        rich_help_panel=SUBJECT,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        help="Threads of the workload. Default: the profile's.",
        rich_help_panel=SUBJECT,
    ),
]
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        metavar="DIR",
        help="Folder for results and for going on.",
        rich_help_panel=RUN,
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace another model's or chip's run in the folder.",
        rich_help_panel=RUN,
    ),
]
Format = Annotated[
    OutputFormat,
    typer.Option(
        "--format",
        metavar="table|json",
        help="table for people, json for scripts.",
        rich_help_panel=RUN,
    ),
]
