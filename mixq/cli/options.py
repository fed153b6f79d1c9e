"""Options that several commands share, and the values that they take."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from mixq.cli.console import OutputFormat
from mixq.errors import UsageError
from mixq.files import one_line

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="SPEC",
        help="package.module:function or file.py:function that returns the model (or model, "
        "calibration, evaluate), a Hugging Face folder, or a .pt2 file. Default: the demo.",
    ),
]
Calibration = Annotated[
    str | None,
    typer.Option(
        "--calibration",
        metavar="SPEC",
        help="package.module:function, .safetensors, .npz, or a text file for language models.",
    ),
]
Hardware = Annotated[
    str,
    typer.Option("--hardware", metavar="NAME|FILE.toml", help="A chip; see mixq hardware list."),
]
Bits = Annotated[
    str, typer.Option("--bits", metavar="LIST", help="Widths to choose from, of 32,16,8,4,2.")
]
Pins = Annotated[
    list[str] | None,
    typer.Option(
        "--pin", metavar="PATTERN=BITS", help="Keep matching units at a width; may be repeated."
    ),
]
Ties = Annotated[
    list[str] | None,
    typer.Option(
        "--tie",
        metavar="PATTERN",
        help="Matching units take one format together (q/k/v that a runtime fuses).",
    ),
]
BatchSize = Annotated[
    int, typer.Option("--batch-size", min=1, help="Samples per forward pass of the workload.")
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="Threads of the workload. Default: the profile's."),
]
Output = Annotated[
    Path, typer.Option("--output", metavar="DIR", help="Folder for results and for going on.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace another model's or chip's run in the folder.")
]
Format = Annotated[
    OutputFormat, typer.Option("--format", help="table for people, json for scripts.")
]

DEFAULT_FOLDER = Path("mixq-run")


def parse_bits(text: str) -> list[int]:
    """Widths from `32,8,4,2`.

    Raises:
        UsageError: if a part is no whole number.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(
            f"--bits is {one_line(repr(text), 60)}, but it must be whole numbers with commas, "
            "such as 32,8,4,2"
        ) from error


def parse_pins(pins: Sequence[str] | None) -> dict[str, int]:
    """Pattern to width from `head.*=8`.

    Raises:
        UsageError: if a pin has no `=` or no whole number behind it.
    """
    parsed: dict[str, int] = {}
    for pin in pins or ():
        pattern, equals, width = pin.rpartition("=")
        if not equals or not pattern or re.fullmatch(r"\d{1,3}", width) is None:
            raise UsageError(
                f"--pin is {one_line(repr(pin), 100)}, but it must be PATTERN=BITS, such as "
                "'head.*=8'"
            )
        parsed[pattern] = int(width)
    return parsed
