"""Tables for the terminal."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from mixq.files import one_line
from mixq.plan import Plan
from mixq.report.heat_view import HeatCell, HeatView

if TYPE_CHECKING:
    from mixq.graph.model_graph import ModelGraph
    from mixq.sensitivity.compare import Comparison
    from mixq.sensitivity.table import SensitivityTable

COLOURS = {32: "white", 16: "cyan", 8: "green", 4: "yellow", 2: "red"}
"""Of widths: the narrower, the warmer."""


def plan_table(plan: Plan) -> Table:
    """One row per layer: format, how often its width is stable, bytes, error, latency, kernel."""
    table = Table(title=_plain(f"{plan.model.name} on {plan.hardware.name}"))
    table.add_column("layer", overflow="fold")
    table.add_column("format")
    known = any(layer.stability is not None for layer in plan.layers.values())
    for column in (*(["stable"] if known else []), "bytes", "error alone", "latency us"):
        table.add_column(column, justify="right")
    table.add_column("kernel", overflow="fold")
    if known and plan.stability is not None:
        table.caption = (
            f"stable: share of {plan.stability.resamplings} resamplings of "
            f"{plan.stability.samples} calibration samples in which a layer keeps its width; "
            f"their plans add {plan.stability.regret:.1%} more error on average"
        )
    for name, layer in plan.layers.items():
        table.add_row(
            _plain(name),
            Text(layer.format.name, style=COLOURS[layer.bits]),
            *([_share(layer.stability)] if known else []),
            f"{layer.weight_bytes:,}",
            f"{layer.error:.2e} ± {layer.error_se:.0e}" if layer.error else "0",
            f"{layer.latency_s * 1e6:.1f}",
            _plain(layer.kernel),
        )
    return table


def summary(plan: Plan, solve_s: float | None = None) -> Table:
    """What the plan costs and loses, beside the uniform plans.

    Args:
        plan: as it was found or loaded.
        solve_s: CPU time that its certificate took [s], if this is the run that made it.
    """
    metrics = list(plan.measured.metric)[:1]
    table = Table()
    table.add_column("plan")
    name = plan.error_metric.name
    error = "output error" if name == "mse" else name
    for column in ("compression", "bytes", error, "held-out", "latency ms", *metrics):
        table.add_column(_plain(column), justify="right")
    original = [_number(plan.measured.original_metric.get(name), 4) for name in metrics]
    baseline = plan.predicted.baseline_latency_s * 1e3
    table.add_row(
        "original",
        "1.00",
        f"{plan.model.original_bytes:,}",
        "0",
        "0",
        f"{baseline:.3f}",
        *original,
    )
    for width, uniform in plan.uniform.items():
        table.add_row(
            _plain(f"uniform {width} bit"),
            f"{uniform.compression:.2f}",
            f"{uniform.weight_bytes:,}",
            _error(name, uniform.error),
            _error(name, uniform.heldout_error),
            f"{uniform.latency_s * 1e3:.3f}",
            *(_number(uniform.metric.get(name), 4) for name in metrics),
        )
    widths = Counter(layer.bits for layer in plan.layers.values())
    mix = ", ".join(f"{widths[bits]} at {bits}" for bits in sorted(widths, reverse=True))
    table.add_section()
    table.add_row(
        f"[bold]this plan[/bold] ({mix})",
        f"{plan.predicted.compression:.2f}",
        f"{plan.predicted.weight_bytes:,}",
        _error(name, plan.measured.error),
        _error(name, plan.measured.heldout_error),
        f"{plan.predicted.latency_s * 1e3:.3f}",
        *(_number(plan.measured.metric.get(name), 4) for name in metrics),
    )
    gap, solver, states = plan.certificate.gap, plan.certificate.solver, plan.certificate.states
    proof = [
        solver,
        *([f"{states:,} {'nodes' if solver == 'highs' else 'sums'}"] if states else []),
    ]
    proof += [] if solve_s is None else [f"{solve_s:.3f} s"]
    table.caption = _plain(
        f"added error within {gap:.2%} of the best possible ({', '.join(proof)}); "
        f"latency predicted for {plan.hardware.name}, {plan.hardware.runtime}, "
        f"{plan.hardware.threads} threads, batch {plan.workload.batch_size}"
    )
    return table


def sensitivity_table(table: SensitivityTable, graph: ModelGraph) -> Table:
    """One row per unit: shape, MACs, output error and its standard error at each format.

    Squared errors are relative to the outputs. Formats that differ in grid and method alone share
    a column where no unit has two of them.
    """
    view = HeatView.of(table)
    shown = Table(title=_plain(view.title))
    shown.add_column("layer", overflow="fold")
    shown.add_column("shape")
    for column in ("MACs", *view.columns):
        shown.add_column(column, justify="right", no_wrap=True)
    for name, row in zip(view.units, view.cells, strict=True):
        unit = graph.units[name]
        shape = " x ".join(map(str, unit.shape))
        shown.add_row(
            _plain(name), shape, f"{unit.macs:,}", *(_cell(c, table.metric) for c in row)
        )
    shown.caption = (
        f"± is one standard error; {table.samples} samples, {graph.parameters:,} parameters, "
        f"{graph.macs:,} MACs, {graph.peak_activation_bytes:,} bytes of live activations at batch "
        f"{graph.batch_size}"
    )
    return shown


def diff_table(first: Plan, second: Plan) -> Table:
    """The layers whose formats differ, then what the plans cost and lose."""
    table = Table(title="layers that differ")
    table.add_column("layer", overflow="fold")
    table.add_column("first")
    table.add_column("second")
    for name, (one, other) in first.diff(second).items():
        table.add_row(_plain(name), one or "-", other or "-")
    table.add_section()
    # Errors in two metrics cannot be compared, squared ones always.
    names = {first.error_metric.name, second.error_metric.name}
    metric = names.pop() if len(names) == 1 else "mse"
    error = "output error" if metric == "mse" else metric
    for label, one, other in zip(
        ("bytes", "compression", error, "held-out error", "latency ms"),
        _facts(first, metric),
        _facts(second, metric),
        strict=True,
    ):
        table.add_row(_plain(label), one, other)
    return table


def evaluation_table(outcome: Comparison) -> Table:
    """Output error and metrics, original beside quantized."""
    table = Table()
    table.add_column("")
    table.add_column("original", justify="right")
    table.add_column("quantized", justify="right")
    for label, value in outcome.errors().items():
        table.add_row(label, "0", f"{value:.4g}")
    for name, value in outcome.metric.items():
        table.add_row(_plain(name), _number(outcome.original_metric.get(name), 4), f"{value:.4g}")
    return table


def _facts(plan: Plan, metric: str) -> list[str]:
    """What a plan costs and loses, in squared errors or in its own metric."""
    measured = plan.measured
    error, heldout = measured.output_mse, measured.heldout_output_mse
    if metric != "mse":
        error, heldout = measured.error, measured.heldout_error
    return [
        f"{plan.predicted.weight_bytes:,}",
        f"{plan.predicted.compression:.2f}",
        _error(metric, error),
        _error(metric, heldout),
        f"{plan.predicted.latency_s * 1e3:.3f}",
    ]


def _plain(text: str) -> Text:
    """Text that comes from outside: no markup, no control characters."""
    return Text(one_line(text))


def _cell(cell: HeatCell | None, metric: str) -> str:
    """An error with its standard error in percent of it, if more than one sample tells."""
    if cell is None:
        return "-"
    if cell.shown == 0:
        return "0"
    found = cell.estimate
    spread = f" ±{found.error_se / found.error:.0%}" if found.samples > 1 else ""
    return f"{cell.shown:.1e}{spread}{_decibels(metric, cell.shown)}"


def _share(value: float | None) -> str:
    """A share in whole percent; only a whole one is 100%."""
    return "-" if value is None else f"{math.floor(round(value * 100, 9))}%"


def _error(metric: str, value: float | None) -> str:
    """An output error; a relative one with its ratio of signal to noise."""
    return _number(value) + ("" if value is None else _decibels(metric, value))


def _decibels(metric: str, error: float) -> str:
    """The SQNR of a relative error, see `mixq.sensitivity.metrics.squares.Relative`."""
    return f" ({-10 * math.log10(error):.1f} dB)" if metric == "relative" and error > 0 else ""


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}g}"
