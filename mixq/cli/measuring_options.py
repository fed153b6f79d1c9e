"""Options of how sensitivities and plans are found, and with how much care."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from mixq.cli import complete
from mixq.cli.panels import MEASURING


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


Sequential = Annotated[
    bool | None,
    typer.Option(
        "--sequential/--one-shot",
        help="Round the chosen plan once more, layer behind rounded layer, and keep what errs "
        "less. Default: where it takes no longer than the rest.",
        rich_help_panel=MEASURING,
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
        autocompletion=complete.equalizations,
        rich_help_panel=MEASURING,
    ),
]
Sensitivity = Annotated[
    SensitivityMode,
    typer.Option(
        "--sensitivity",
        help="auto: measured where the plan depends on it, else estimated; measured: all, on all "
        "samples; sketch: estimated from gradients, for models too large to measure.",
        rich_help_panel=MEASURING,
    ),
]
Sampler = Annotated[
    SamplerName,
    typer.Option(
        "--sampler",
        help="Who proposes the plans to measure. mixq: exact optima of the budget. tpe, nsga2, "
        "random: for comparison Optuna's own, started from the optimum, with as many --trials, "
        "not refined.",
        rich_help_panel=MEASURING,
    ),
]
Stream = Annotated[
    bool,
    typer.Option(
        "--stream",
        help="For Hugging Face folders larger than memory: one block's weights are in memory at a "
        "time. Rounding sees no data then (rtn, squant or hqq), and auto means sketch.",
        rich_help_panel=MEASURING,
    ),
]
Samples = Annotated[
    int | None,
    typer.Option(
        "--samples",
        min=1,
        help="Calibration samples to measure on. Default: those that rounding has not learnt.",
        rich_help_panel=MEASURING,
    ),
]
Check = Annotated[
    bool | None,
    typer.Option(
        "--check/--no-check",
        help="Run the packed model at the end, and compare it with what was measured and "
        "predicted. Default: with a recipe only.",
        rich_help_panel=MEASURING,
    ),
]
Trials = Annotated[
    int,
    typer.Option(
        "--trials",
        min=1,
        help="Plans of least error to measure beside the uniform ones.",
        rich_help_panel=MEASURING,
    ),
]
Rounds = Annotated[
    int,
    typer.Option(
        "--rounds",
        min=0,
        help="How often at most the best plan is refined: single changes are measured with the "
        "rest of the plan in place.",
        rich_help_panel=MEASURING,
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed",
        min=0,
        help="The same seed gives the same plan (docs/determinism.md).",
        rich_help_panel=MEASURING,
    ),
]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        help="Database for the Optuna study, not the folder's journal: postgresql://... or "
        "sqlite:///study.db. The same command on many machines shares the work.",
        rich_help_panel=MEASURING,
    ),
]
