"""Predictions of rows for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from mixq.files import one_line
from mixq.predict.prediction import Prediction, Refusal
from mixq.predict.row import Row


def prediction_table(hardware: str, row: Row, found: Prediction) -> Table:
    """One prediction: what, how long, how surely, by which kernel and why."""
    what = row.model_or_op
    if row.is_product:
        what = f"{row.m} x {row.k} activations by {row.k} x {row.n} weights"
    table = Table(title=f"{escape(one_line(what))} on {escape(hardware)}", show_header=False)
    table.add_column("what")
    table.add_column("value", overflow="fold")
    inputs = "" if row.activation_bits is None else f", {row.activation_bits:g}-bit activations"
    table.add_row("weights", f"{row.weight_bits:g} bits{inputs}")
    table.add_row("predicted", f"{found.predicted:,.4g} {row.unit}")
    table.add_row("80% interval", f"{found.low:,.4g} to {found.high:,.4g} {row.unit}")
    table.add_row("kernel", escape(found.kernel))
    table.add_row("why", escape(found.note))
    return table


def refusals(answers: Sequence[tuple[Row, Prediction | Refusal]]) -> list[tuple[Row, str]]:
    """Rows that got no prediction, and why."""
    return [(row, answer.reason) for row, answer in answers if isinstance(answer, Refusal)]
