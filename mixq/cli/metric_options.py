"""Options of what output error is: the metric and the outputs."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from mixq.cli import complete
from mixq.cli.panels import MEASURING
from mixq.errors import UsageError
from mixq.files import one_line

Metric = Annotated[
    str,
    typer.Option(
        "--metric",
        metavar="NAME|SPEC",
        help="Output error: mse; relative (over each sample's power); kl (divergence of scores); "
        "cosine (1 minus it); package.module:function, a loss of yours whose increase counts. "
        "auto: kl for causal language models, mse for others.",
        autocompletion=complete.metrics,
        rich_help_panel=MEASURING,
    ),
]
Outputs = Annotated[
    str | None,
    typer.Option(
        "--outputs",
        metavar="LIST",
        help="Outputs that are compared, NAME or NAME=WEIGHT with commas, or all. Default: "
        "logits, else last_hidden_state, else the first.",
        rich_help_panel=MEASURING,
    ),
]


def parse_outputs(text: str | None) -> str | dict[str, float] | None:
    """Weights by name from `start_logits=1,end_logits`; a name alone weighs 1.

    Raises:
        UsageError: if a part has no name, or no number behind `=`, or a name comes twice.
    """
    if text is None or text == "all":
        return text
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, equals, weight = part.strip().partition("=")
        try:  # float() takes 1_6 for 16
            number = float(weight if equals else "1") if "_" not in weight else math.nan
        except ValueError:
            number = math.nan
        if not name or name in weights or math.isnan(number):
            raise UsageError(
                f"--outputs is {one_line(repr(text), 100)}, but it must be different NAMEs or "
                "NAME=WEIGHT with commas, such as start_logits=1,end_logits=1, or all"
            )
        weights[name] = number
    return weights
