"""PlanDiff: two plans of one model side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from rich.table import Table

from mixq.errors import PlanError
from mixq.files import one_line
from mixq.plan import Plan
from mixq.report.tables import error_text, number_text, plain

Amount: TypeAlias = int | float | None
Pair: TypeAlias = tuple[Amount, Amount]


@dataclass(frozen=True)
class PlanDiff:
    """Two plans of one model side by side; of every pair the first plan's value comes first.

    Attributes:
        layers: that differ, with the formats; None where a plan has no such layer.
        layer_bytes: of the same layers.
        weight_bytes, compression, latency_s, peak_memory_bytes: predicted.
        metric: of the errors: the plans' own if it is the same one, else `mse`.
        heldout_error, measured_error, predicted_error: of whole plans, the last one added up;
            None where it is not known.
        metrics: on labelled data, by name.
    """

    layers: dict[str, tuple[str | None, str | None]]
    layer_bytes: dict[str, Pair]
    weight_bytes: Pair
    compression: Pair
    latency_s: Pair
    peak_memory_bytes: Pair
    metric: str
    heldout_error: Pair
    measured_error: Pair
    predicted_error: Pair
    metrics: dict[str, Pair]

    @classmethod
    def of(cls, first: Plan, second: Plan) -> PlanDiff:
        """The difference of two plans.

        Raises:
            PlanError: if they are of different models.
        """
        if first.model.fingerprint != second.model.fingerprint:
            names = " and ".join(one_line(plan.model.name, 60) for plan in (first, second))
            raise PlanError(
                f"the plans are of models with different weights ({names}), so their layers "
                "cannot be compared; take two plans of one model"
            )
        layers = first.diff(second)
        # Errors in two metrics cannot be compared, squared ones always.
        own = first.error_metric == second.error_metric

        def pair(value: Callable[[Plan], Amount]) -> Pair:
            return value(first), value(second)

        def bytes_of(plan: Plan, name: str) -> int | None:
            return plan.layers[name].weight_bytes if name in plan.layers else None

        return cls(
            layers=layers,
            layer_bytes={name: pair(lambda p, n=name: bytes_of(p, n)) for name in layers},  # type: ignore[misc]
            weight_bytes=pair(lambda plan: plan.predicted.weight_bytes),
            compression=pair(lambda plan: plan.predicted.compression),
            latency_s=pair(lambda plan: plan.predicted.latency_s),
            peak_memory_bytes=pair(lambda plan: plan.predicted.peak_memory_bytes),
            metric=first.error_metric.name if own else "mse",
            heldout_error=pair(
                lambda plan: (
                    plan.measured.heldout_error if own else plan.measured.heldout_output_mse
                )
            ),
            measured_error=pair(
                lambda plan: plan.measured.error if own else plan.measured.output_mse
            ),
            predicted_error=pair(
                lambda plan: plan.predicted.error if own else plan.predicted.output_mse
            ),
            metrics={
                name: (first.measured.metric.get(name), second.measured.metric.get(name))
                for name in dict.fromkeys((*first.measured.metric, *second.measured.metric))
            },
        )

    def to_json(self) -> dict[str, object]:
        """The difference as JSON values; layers are pairs of formats."""
        pairs = ("weight_bytes", "compression", "latency_s", "peak_memory_bytes")
        errors = ("heldout_error", "measured_error", "predicted_error")
        return {
            "layers": {name: list(formats) for name, formats in self.layers.items()},
            **{name: list(getattr(self, name)) for name in (*pairs, *errors)},
            "metric": self.metric,
            "metrics": {name: list(values) for name, values in self.metrics.items()},
        }


def diff_table(first: Plan, second: Plan) -> Table:
    """The layers whose formats differ, then what the plans cost and lose.

    Raises:
        PlanError: as `PlanDiff.of`.
    """
    found = PlanDiff.of(first, second)
    table = Table(title="layers that differ" if found.layers else "no layer differs")
    table.add_column("layer", overflow="fold")
    for column in ("first", "second", "change"):
        table.add_column(column, justify="right")
    for name, (one, other) in found.layers.items():
        change = _change(found.layer_bytes[name], lambda amount: f"{amount:+,.0f} bytes")
        table.add_row(plain(name), one or "-", other or "-", change)
    table.add_section()
    metric = found.metric
    error = "output error" if metric == "mse" else metric
    rows: list[tuple[str, Pair, Callable[[Amount], str]]] = [
        ("bytes", found.weight_bytes, lambda a: "-" if a is None else f"{a:,}"),
        ("compression", found.compression, lambda a: "-" if a is None else f"{a:.2f}"),
        ("latency ms", found.latency_s, lambda a: "-" if a is None else f"{a * 1e3:.3f}"),
        *(
            (label, values, lambda a: error_text(metric, a))
            for label, values in (
                (f"held-out {error}", found.heldout_error),
                (f"{error} on calibration", found.measured_error),
                (f"{error} added up", found.predicted_error),
            )
        ),
    ]
    for label, values, text in rows:
        table.add_row(plain(label), *map(text, values), _relative(values))
    for label, values in found.metrics.items():
        shown = (number_text(value, 4) for value in values)
        table.add_row(plain(label), *shown, _change(values, lambda amount: f"{amount:+.4g}"))
    return table


def _change(values: Pair, text: Callable[[float], str]) -> str:
    one, other = values
    return "-" if one is None or other is None else text(other - one)


def _relative(values: Pair) -> str:
    one, other = values
    if one is None or other is None or one <= 0:
        return "-"
    return f"{other / one - 1:+.1%}"
