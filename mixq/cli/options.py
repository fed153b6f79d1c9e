"""Options that several commands share, and the values that they take."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixq.cli.console import OutputFormat
from mixq.errors import UsageError
from mixq.files import one_line

if TYPE_CHECKING:
    from mixq.search.palette import Palette
    from mixq.search.recipe import Recipe as LoadedRecipe


class SensitivityMode(StrEnum):
    """How sensitivities are found."""

    auto = "auto"
    measured = "measured"
    sketch = "sketch"


class SamplerName(StrEnum):
    """Who proposes the plans that are measured."""

    mixq = "mixq"
    tpe = "tpe"
    nsga2 = "nsga2"
    random = "random"


Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="SPEC",
        help="package.module:function or file.py:function that returns the model (or model, "
        "calibration, evaluate), a Hugging Face folder, or a .pt2 file. Default: the demo.",
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run the Python code that a Hugging Face folder brings along (auto_map in its "
        "config.json). Without it mixq runs code of no file but that of a module:function.",
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
_HARDWARE = typer.Option(
    "--hardware", metavar="NAME|FILE.toml", help="A chip; see mixq hardware list."
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
# Without a default of their own, so that a recipe's goes before the one that the help names.
Bits = Annotated[
    str | None,
    typer.Option(
        "--bits",
        metavar="LIST",
        help="Widths to choose from, of 32,16,8,4,2. Default: 32,8,4,2.",
        show_default=False,
    ),
]
GroupSizes = Annotated[
    str | None,
    typer.Option(
        "--group-sizes",
        metavar="LIST",
        help="Columns that share a scale below 8 bits, 16 to 256, or 'channel'. Default: "
        "32,64,128.",
        show_default=False,
    ),
]
Grids = Annotated[
    str | None,
    typer.Option(
        "--grids",
        metavar="LIST",
        help="Grids below 8 bits, of symmetric,signed,zero-point,affine. Default: the best that "
        "the runtime reads.",
    ),
]
RoundingMethod = Annotated[
    str | None,
    typer.Option(
        "--method",
        metavar="NAME",
        help="Rounding: rtn, squant, clip, hqq, gptq, a method of an installed package, or auto: "
        "gptq where the calibration data suffice. Default: auto.",
        show_default=False,
    ),
]
Activations = Annotated[
    str | None,
    typer.Option(
        "--activations",
        metavar="LIST",
        help="What 8-bit layers may do with their inputs, of none,dynamic,static. Default: none.",
        show_default=False,
    ),
]
Half = Annotated[
    str | None,
    typer.Option(
        "--half",
        metavar="NAME",
        help="What 16 bits are: float16 or bfloat16. Default: float16.",
        show_default=False,
    ),
]
Sequential = Annotated[
    bool | None,
    typer.Option(
        "--sequential/--one-shot",
        help="Round the chosen plan once more, layer behind rounded layer, and keep what errs "
        "less. Default: where it takes no longer than the rest.",
    ),
]
Equalization = Annotated[
    str,
    typer.Option(
        "--equalize",
        metavar="NAME",
        help="Rewrite the model first, without a change of what it computes: fold (batch norms "
        "into their neighbours), cross-layer (and balance ranges), input (and scale inputs), all, "
        "none.",
    ),
]
Sensitivity = Annotated[
    SensitivityMode,
    typer.Option(
        "--sensitivity",
        help="auto: measured where the plan depends on it, else estimated; measured: all, on all "
        "samples; sketch: estimated from gradients, for models too large to measure.",
    ),
]
Sampler = Annotated[
    SamplerName,
    typer.Option(
        "--sampler",
        help="Who proposes the plans to measure. mixq: exact optima of the budget. tpe, nsga2, "
        "random: for comparison Optuna's own, started from the optimum, with as many --trials, "
        "not refined.",
    ),
]
Stream = Annotated[
    bool,
    typer.Option(
        "--stream",
        help="For Hugging Face folders larger than memory: one block's weights are in memory at a "
        "time. Rounding sees no data then (rtn, squant or hqq), and auto means sketch.",
    ),
]
Samples = Annotated[
    int | None,
    typer.Option(
        "--samples",
        min=1,
        help="Calibration samples to measure on. Default: those that rounding has not learnt.",
    ),
]
Check = Annotated[
    bool | None,
    typer.Option(
        "--check/--no-check",
        help="Run the packed model at the end, and compare it with what was measured and "
        "predicted. Default: with a recipe only.",
    ),
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
_SAMPLES_PER_PASS = "Samples per forward pass of the workload."
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help=_SAMPLES_PER_PASS)]
BatchSizeOrRecipes = Annotated[
    int | None, typer.Option("--batch-size", min=1, help=f"{_SAMPLES_PER_PASS} Default: 1.")
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
        return [_whole(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(
            f"--bits is {one_line(repr(text), 60)}, but it must be whole numbers with commas, "
            "such as 32,8,4,2"
        ) from error


def parse_palette(
    bits: str | None,
    group_sizes: str | None,
    grids: str | None,
    method: str | None,
    activations: str | None,
    half: str | None,
    recipe: LoadedRecipe | None = None,
) -> Palette:
    """The formats that the options name, else the recipe's, else the defaults.

    Raises:
        UsageError: naming the option whose value is unknown.
    """
    from mixq.search.recipe import Recipe

    # Unknown words are refused by the Palette, which knows them.
    return (recipe or Recipe()).palette(
        bits=None if bits is None else parse_bits(bits),
        group_sizes=None if group_sizes is None else parse_group_sizes(group_sizes),
        grids=None if grids is None else grids.split(","),
        method=method,
        activations=None if activations is None else activations.split(","),
        half=None if half is None else parse_half(half),
    )


def parse_half(text: str) -> str:
    """The grid of 16-bit formats from `float16` or `bfloat16`.

    Raises:
        UsageError: if it is neither.
    """
    grid = {"float16": "symmetric", "bfloat16": "bfloat16"}.get(text)
    if grid is None:
        raise UsageError(f"--half is {one_line(repr(text), 60)}, but it is float16 or bfloat16")
    return grid


def parse_group_sizes(text: str) -> list[int | None]:
    """Group sizes from `32,64,channel`.

    Raises:
        UsageError: if a part is neither a whole number nor `channel`.
    """
    try:
        return [None if part == "channel" else _whole(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(
            f"--group-sizes is {one_line(repr(text), 60)}, but it must be whole numbers with "
            "commas, or 'channel', such as 32,64,channel"
        ) from error


def parse_pins(pins: Sequence[str] | None) -> dict[str, int]:
    """Pattern to width from `head.*=8`.

    Raises:
        UsageError: if a pin has no `=` or no whole number behind it.
    """
    parsed: dict[str, int] = {}
    for pin in pins or ():
        pattern, equals, width = pin.rpartition("=")
        if not equals or not pattern or re.fullmatch("[0-9]{1,3}", width) is None:
            raise UsageError(
                f"--pin is {one_line(repr(pin), 100)}, but it must be PATTERN=BITS, such as "
                "'head.*=8'"
            )
        parsed[pattern] = int(width)
    return parsed


def _whole(text: str) -> int:
    """A whole number as people write it: int() would take 1_6 for 16.

    Raises:
        ValueError: if it is none.
    """
    if re.fullmatch(" *-?[0-9]{1,9} *", text) is None:
        raise ValueError(text)
    return int(text)
