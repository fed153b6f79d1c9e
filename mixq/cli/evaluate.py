"""mixq evaluate: output error and metrics of a plan or an artifact."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mixq.cli import complete, options
from mixq.cli.console import OutputFormat, note, show, show_json
from mixq.cli.inputs import load_inputs

if TYPE_CHECKING:
    from mixq.sensitivity.metrics.metric import Metric


def evaluate(
    target: Annotated[
        Path, typer.Argument(metavar="PLAN|ARTIFACT", help="plan.json or a file of mixq apply.")
    ],
    model: options.Model = None,
    calibration: options.Calibration = None,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|SPEC",
            autocompletion=complete.metrics,
            help="Output error to show beside the squared one: relative, kl, cosine, or "
            "package.module:function. Default: the plan's, unless that is a loss.",
        ),
    ] = None,
    format: options.Format = OutputFormat.table,
) -> None:
    """Run a quantized model and compare it with the original.

    Shows the output error on all calibration data and on held-out data, and the metrics of the
    model's own evaluation, if it has one, before and after.
    """
    from mixq.sensitivity.metrics.choice import MetricChoice

    choice = None if metric is None else MetricChoice(metric)
    from mixq.artifact import load
    from mixq.plan import Plan
    from mixq.report.tables import evaluation_table
    from mixq.sensitivity.compare import compare
    from mixq.sensitivity.metrics.resolve import of_plan, resolve

    loaded, data = load_inputs(model, calibration)
    judged: Metric | None = None
    if target.suffix == ".safetensors":
        quantized = load(target, loaded.model)
    else:
        plan = Plan.load(target)
        quantized = plan.apply(loaded.model)
        judged = of_plan(plan)
        # A name in a file is no reason to run code.
        if judged is None and choice is None:
            name = plan.error_metric.name
            note(f"note: the plan's errors are in {name}; --metric {name} shows them here too")
        if choice is not None:
            choice = replace(choice, outputs=plan.error_metric.outputs or None)
    if choice is not None:
        judged = resolve(choice, loaded.model, data)
    outcome = compare(loaded.model, quantized, data, loaded.evaluate, judged)
    if format is OutputFormat.json:
        show_json(outcome.to_json())
        return
    show(evaluation_table(outcome))
