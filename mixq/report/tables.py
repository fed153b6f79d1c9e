"""Tables for the terminal."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, TypeAlias

from rich.table import Table
from rich.text import Text

from mixq.files import one_line
from mixq.plan import Plan
from mixq.plan_parts import EVERYWHERE, Measurement, Prediction, UniformInfo
from mixq.report.heat_view import HeatCell, HeatView

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mixq.graph.model_graph import ModelGraph
    from mixq.sensitivity.compare import Comparison
    from mixq.sensitivity.table import SensitivityTable

_Cost: TypeAlias = Prediction | UniformInfo
_Loss: TypeAlias = Measurement | UniformInfo
COLOURS = {32: "white", 16: "cyan", 8: "green", 4: "yellow", 2: "red"}
"""Of widths: the narrower, the warmer."""


def plan_table(plan: Plan) -> Table:
    """One row per layer: format, how often its width is stable, bytes, error, latency, kernel."""
    table = Table(title=plain(f"{plan.model.name} on {plan.hardware.name}"))
    table.add_column("layer", overflow="fold")
    table.add_column("format")
    found = plan.stability
    known = found is not None or any(row.stability is not None for row in plan.layers.values())
    for column in (*(["stable"] if known else []), "bytes", "error alone", "latency us"):
        table.add_column(column, justify="right")
    table.add_column("kernel", overflow="fold")
    if found is not None and found.resamplings:
        samples = f"{found.samples} calibration sample{'' if found.samples == 1 else 's'}"
        table.caption = (
            f"stable: share of {found.resamplings} resamplings of {samples} in which a layer "
            f"keeps its width; their plans add {found.regret:.1%} more error on average"
        )
    for name, layer in plan.layers.items():
        table.add_row(
            plain(name),
            Text(layer.format.name, style=COLOURS[layer.bits]),
            *([_share(layer.stability)] if known else []),
            f"{layer.weight_bytes:,}",
            f"{layer.error:.2e} ± {layer.error_se:.0e}" if layer.error else "0",
            f"{layer.latency_s * 1e6:.1f}",
            plain(layer.kernel),
        )
    return table


def summary(plan: Plan, solve_s: float | None = None) -> Table:
    """What the plan costs and loses, beside the plans of one width or one format.

    Held-out errors stand first, where there are any: the plan was chosen by the others.

    Args:
        plan: as it was found or loaded.
        solve_s: CPU time that its certificate took [s], if this is the run that made it.
    """
    metrics = list(plan.measured.metric)[:1]
    heldout = plan.measured.heldout_error is not None
    table = Table()
    table.add_column("plan")
    name = plan.error_metric.name
    error = "output error" if name == "mse" else name
    errors = (f"held-out {error}", "on calibration") if heldout else (error,)
    for column in ("compression", "bytes", *errors, "latency ms", *metrics):
        table.add_column(plain(column), justify="right")
    table.add_row(
        "original",
        "1.00",
        f"{plan.model.original_bytes:,}",
        *("0" for _ in errors),
        f"{plan.predicted.baseline_latency_s * 1e3:.3f}",
        *(number_text(plan.measured.original_metric.get(name), 4) for name in metrics),
    )

    def add(label: RenderableType, cost: _Cost, loss: _Loss) -> None:
        table.add_row(
            label,
            f"{cost.compression:.2f}",
            f"{cost.weight_bytes:,}",
            *([error_text(name, loss.heldout_error)] if heldout else []),
            error_text(name, loss.error),
            f"{cost.latency_s * 1e3:.3f}",
            *(number_text(loss.metric.get(metric), 4) for metric in metrics),
        )

    for width, uniform in plan.uniform.items():
        add(plain(f"uniform {width} bit"), uniform, uniform)
    for fmt, single in plan.single.items():
        add(plain(f"{fmt}{EVERYWHERE}"), single, single)
    widths = Counter(layer.bits for layer in plan.layers.values())
    mix = ", ".join(f"{widths[bits]} at {bits}" for bits in sorted(widths, reverse=True))
    table.add_section()
    add(f"[bold]this plan[/bold] ({mix})", plan.predicted, plan.measured)
    gap, solver, states = plan.certificate.gap, plan.certificate.solver, plan.certificate.states
    proof = [
        solver,
        *([f"{states:,} {'nodes' if solver == 'highs' else 'sums'}"] if states else []),
    ]
    proof += [] if solve_s is None else [f"{solve_s:.3f} s"]
    table.caption = plain(
        f"added error within {gap:.2%} of the best possible ({', '.join(proof)}); "
        f"latency predicted for {plan.hardware.name}, {plan.hardware.runtime}, "
        f"{plan.hardware.threads} threads, batch {plan.workload.batch_size}{_between(plan)}"
    )
    return table


def _between(plan: Plan) -> str:
    """The interval of the latency and the peak of memory, where the plan has them."""
    found = plan.predicted
    said = ""
    if found.latency_low_s is not None and found.latency_high_s is not None:
        said = f" (80%: {found.latency_low_s * 1e3:.3g} to {found.latency_high_s * 1e3:.3g} ms)"
    return f"{said}; peak memory {found.peak_memory_bytes / 1e6:.3g} MB"


def sensitivity_table(table: SensitivityTable, graph: ModelGraph) -> Table:
    """One row per unit: shape, MACs, output error and its standard error at each format.

    Squared errors are relative to the outputs. Formats that differ in grid and method alone share
    a column where no unit has two of them.
    """
    view = HeatView.of(table)
    shown = Table(title=plain(view.title))
    shown.add_column("layer", overflow="fold")
    shown.add_column("shape")
    for column in ("MACs", *view.columns):
        shown.add_column(column, justify="right", no_wrap=True)
    for name, row in zip(view.units, view.cells, strict=True):
        unit = graph.units[name]
        shape = " x ".join(map(str, unit.shape))
        shown.add_row(plain(name), shape, f"{unit.macs:,}", *(_cell(c, table.metric) for c in row))
    shown.caption = (
        f"± is one standard error; {table.samples} samples, {graph.parameters:,} parameters, "
        f"{graph.macs:,} MACs, {graph.peak_activation_bytes:,} bytes of live activations at batch "
        f"{graph.batch_size}"
    )
    return shown


def evaluation_table(outcome: Comparison) -> Table:
    """Output error and metrics, original beside quantized."""
    table = Table()
    table.add_column("")
    table.add_column("original", justify="right")
    table.add_column("quantized", justify="right")
    for label, value in outcome.errors().items():
        table.add_row(label, "0", f"{value:.4g}")
    for name, value in outcome.metric.items():
        table.add_row(
            plain(name), number_text(outcome.original_metric.get(name), 4), f"{value:.4g}"
        )
    return table


def plain(text: str) -> Text:
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


def error_text(metric: str, value: float | None) -> str:
    """An output error; a relative one with its ratio of signal to noise."""
    return number_text(value) + ("" if value is None else _decibels(metric, value))


def _decibels(metric: str, error: float) -> str:
    """The SQNR of a relative error, see `mixq.sensitivity.metrics.squares.Relative`."""
    return f" ({-10 * math.log10(error):.1f} dB)" if metric == "relative" and error > 0 else ""


def number_text(value: float | None, digits: int = 3) -> str:
    """A number with so many digits; a dash for none."""
    return "-" if value is None else f"{value:.{digits}g}"
