"""How a plan is shown in a notebook and as a data frame."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from mixq.frames import data_frame
from mixq.html_table import Html, format_cell, html_block, html_lines, html_table
from mixq.plan_parts import EVERYWHERE, Layer, Measurement, Prediction, UniformInfo

if TYPE_CHECKING:
    from pandas import DataFrame

    from mixq.plan import Plan

LAYER_COLUMNS: Final = {
    "unit": "str",
    "format": "str",
    "bits": "int64",
    "group_size": "Int64",
    "grid": "str",
    "activation": "str",
    "method": "str",
    "kernel": "str",
    "rows": "int64",
    "columns": "int64",
    "weight_bytes": "int64",
    "latency_s": "float64",
    "error": "float64",
    "error_se": "float64",
    "stability": "float64",
}
"""Columns of `Plan.to_pandas()`: names and settings as in plan.json, `rows` and `columns` of the
matrix in which the unit is quantized, bytes, seconds, and the error of the layer alone."""


def layer_frame(layers: Mapping[str, Layer]) -> DataFrame:
    """One row per layer, with `LAYER_COLUMNS`.

    Raises:
        MissingExtraError: if pandas is not installed.
    """
    return data_frame(
        LAYER_COLUMNS,
        (
            (
                unit, layer.format.name, layer.bits, layer.group_size, layer.grid,
                layer.activation, layer.method, layer.kernel, *layer.matrix, layer.weight_bytes,
                layer.latency_s, layer.error, layer.error_se, layer.stability,
            )
            for unit, layer in layers.items()
        ),
    )  # fmt: skip


def plan_html(plan: Plan) -> str:
    """What it costs and loses beside plain plans, and its first layers."""
    layers = html_table(
        ("layer", "format", "kernel", "bytes", "error alone", "latency us"),
        (
            (
                unit, format_cell(layer.format.name, layer.bits), layer.kernel,
                f"{layer.weight_bytes:,}", f"{layer.error:.2e}" if layer.error else "0",
                f"{layer.latency_s * 1e6:.1f}",
            )
            for unit, layer in plan.layers.items()
        ),
        total=len(plan.layers),
        see_all="print(plan), plan.to_pandas(), plan.layers",
        names=3,
    )  # fmt: skip
    return html_block(html_lines(headline(plan)), _beside(plan), layers)


def headline(plan: Plan) -> str:
    """The plan in one sentence."""
    found = plan.predicted
    speed = plan.predicted.baseline_latency_s / found.latency_s if found.latency_s else 1.0
    widths = Counter(layer.bits for layer in plan.layers.values())
    mix = ", ".join(f"{widths[bits]} at {bits} bits" for bits in sorted(widths, reverse=True))
    return (
        f"{plan.model.name} on {plan.hardware.name}: {found.compression:.2f}x smaller "
        f"({found.weight_bytes:,} bytes), predicted {speed:.2f}x as fast as 32 bits in "
        f"{plan.hardware.runtime}; layers: {mix}"
    )


def _beside(plan: Plan) -> Html:
    metrics = list(plan.measured.metric)[:1]
    name = plan.error_metric.name
    error = "output error" if name == "mse" else name
    heldout = plan.measured.heldout_error is not None
    label = f"held-out {error}" if heldout else error
    rows: list[tuple[object, ...]] = [
        (
            "original", "1.00", f"{plan.model.original_bytes:,}", "0",
            f"{plan.predicted.baseline_latency_s * 1e3:.3f}",
            *(_number(plan.measured.original_metric.get(metric)) for metric in metrics),
        )
    ]  # fmt: skip

    def add(what: str, cost: Prediction | UniformInfo, loss: Measurement | UniformInfo) -> None:
        rows.append(
            (
                what, f"{cost.compression:.2f}", f"{cost.weight_bytes:,}",
                _number(loss.heldout_error if heldout else loss.error),
                f"{cost.latency_s * 1e3:.3f}",
                *(_number(loss.metric.get(metric)) for metric in metrics),
            )
        )  # fmt: skip

    for width, info in plan.uniform.items():
        add(f"uniform {width} bit", info, info)
    for fmt, info in plan.single.items():
        add(f"{fmt}{EVERYWHERE}", info, info)
    add(Html("<strong>this plan</strong>"), plan.predicted, plan.measured)
    return html_table(("plan", "compression", "bytes", label, "latency ms", *metrics), rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
