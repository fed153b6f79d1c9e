"""Options of which formats layers may take, and their values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mixq.cli import complete
from mixq.cli.panels import FORMATS
from mixq.cli.unit_options import whole
from mixq.errors import UsageError
from mixq.files import one_line

if TYPE_CHECKING:
    from mixq.search.palette import Palette
    from mixq.search.recipe import Recipe as LoadedRecipe

# Without a default of their own, so that a recipe's goes before the one that the help names.
Bits = Annotated[
    str | None,
    typer.Option(
        "--bits",
        metavar="LIST",
        help="Widths to choose from, of 32,16,8,4,2. Default: 32,8,4,2.",
        show_default=False,
        autocompletion=complete.bits,
        rich_help_panel=FORMATS,
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
        autocompletion=complete.group_sizes,
        rich_help_panel=FORMATS,
    ),
]
Grids = Annotated[
    str | None,
    typer.Option(
        "--grids",
        metavar="LIST",
        help="Grids below 8 bits, of symmetric,signed,zero-point,affine. Default: the best that "
        "the runtime reads.",
        autocompletion=complete.grids,
        rich_help_panel=FORMATS,
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
        autocompletion=complete.methods,
        rich_help_panel=FORMATS,
    ),
]
Activations = Annotated[
    str | None,
    typer.Option(
        "--activations",
        metavar="LIST",
        help="What 8-bit layers may do with their inputs, of none,dynamic,static. Default: none.",
        show_default=False,
        autocompletion=complete.activations,
        rich_help_panel=FORMATS,
    ),
]
Half = Annotated[
    str | None,
    typer.Option(
        "--half",
        metavar="NAME",
        help="What 16 bits are: float16 or bfloat16. Default: float16.",
        show_default=False,
        autocompletion=complete.halves,
        rich_help_panel=FORMATS,
    ),
]


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


def parse_bits(text: str) -> list[int]:
    """Widths from `32,8,4,2`.

    Raises:
        UsageError: if a part is no whole number.
    """
    try:
        return [whole(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(
            f"--bits is {one_line(repr(text), 60)}, but it must be whole numbers with commas, "
            "such as 32,8,4,2"
        ) from error


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
        return [None if part == "channel" else whole(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(
            f"--group-sizes is {one_line(repr(text), 60)}, but it must be whole numbers with "
            "commas, or 'channel', such as 32,64,channel"
        ) from error
