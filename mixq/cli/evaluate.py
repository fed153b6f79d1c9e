"""mixq evaluate: output error and metrics of a plan or an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mixq.cli import options
from mixq.cli.console import OutputFormat, show, show_json
from mixq.cli.inputs import load_inputs


def evaluate(
    target: Annotated[
        Path, typer.Argument(metavar="PLAN|ARTIFACT", help="plan.json or a file of mixq apply.")
    ],
    model: options.Model = None,
    calibration: options.Calibration = None,
    format: options.Format = OutputFormat.table,
) -> None:
    """Run a quantized model and compare it with the original.

    Shows the output error on all calibration data and on held-out data, and the metrics of the
    model's own evaluation, if it has one, before and after.
    """
    from mixq.artifact import load
    from mixq.plan import Plan
    from mixq.report.tables import evaluation_table
    from mixq.sensitivity.compare import compare

    loaded, data = load_inputs(model, calibration)
    if target.suffix == ".safetensors":
        quantized = load(target, loaded.model)
    else:
        quantized = Plan.load(target).apply(loaded.model)
    outcome = compare(loaded.model, quantized, data, loaded.evaluate)
    if format is OutputFormat.json:
        show_json(outcome.to_json())
        return
    show(evaluation_table(outcome))
