"""Options of what a plan must keep."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import typer

from mixq.cli.panels import DEMANDS

_Number: TypeAlias = float | None

TargetCompression = Annotated[
    _Number,
    typer.Option(
        metavar="R",
        rich_help_panel=DEMANDS,
        help="How many times smaller: bytes of the 32-bit model over bytes of all stored.",
    ),
]
MaxSizeMb = Annotated[
    _Number,
    typer.Option(metavar="X", rich_help_panel=DEMANDS, help="Bytes stored, in megabytes of 10^6."),
]
MaxLatencyMs = Annotated[
    _Number,
    typer.Option(
        metavar="X",
        rich_help_panel=DEMANDS,
        help="Predicted time of one forward pass on the chip, in milliseconds.",
    ),
]
MinSpeedup = Annotated[
    _Number,
    typer.Option(
        metavar="R",
        rich_help_panel=DEMANDS,
        help="Predicted: 32 bits' time on the same chip over the plan's.",
    ),
]
MaxMemoryMb = Annotated[
    _Number,
    typer.Option(
        metavar="X",
        rich_help_panel=DEMANDS,
        help="Predicted peak: weights, live activations and runtime, in megabytes of 10^6.",
    ),
]
MaxError = Annotated[
    _Number,
    typer.Option(
        metavar="X",
        rich_help_panel=DEMANDS,
        help="Measured output error, in --metric. Alone: the smallest plan that keeps it.",
    ),
]
MaxMetricDrop = Annotated[
    _Number,
    typer.Option(
        metavar="X",
        rich_help_panel=DEMANDS,
        help="How much worse the model's headline metric may get, such as 0.01 of accuracy. "
        "Alone: the smallest plan that keeps it.",
    ),
]
