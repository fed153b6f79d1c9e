"""Plans: what the page needs to show the allocation of any plan that is clicked."""

from __future__ import annotations

from typing import Any

from mixq.files import one_line
from mixq.formats import Format
from mixq.plan import Plan
from mixq.report.html.network import display_names
from mixq.report.html.plot import plot
from mixq.report.pareto_view import LEGEND, ParetoView
from mixq.report.records import Record, Records
from mixq.report.run import Run
from mixq.sensitivity.table import SensitivityTable


def plans_data(run: Run, plan: Plan, records: Records) -> dict[str, Any]:
    """Plot, plans, units, and the price and error of every unit in every format of a plan.

    Texts and formats stand once and are named by position, so that a plan of 1,000 units takes
    3 kB.
    """
    view = ParetoView.of(records.points(), records.metric)
    # The order of `view.points`, which sorts by the same key.
    ordered = sorted(records.plans, key=lambda p: (p.weight_bytes, p.error, p.name))
    names = display_names(plan)
    formats = [Format.parse(name) for name in records.formats]
    return {
        "plot": plot(view),
        "formats": [[fmt.name, fmt.bits] for fmt in formats],
        "units": [
            [
                names[unit],
                one_line(unit),
                plan.layers[unit].matrix[0] * plan.layers[unit].matrix[1],
            ]
            for unit in records.units
        ],
        "kernels": [
            one_line(kernel, 100) for kernel in (run.prices.kernels if run.prices else [])
        ],
        "cells": _cells(run, records, formats),
        "plans": [_plan(record, view) for record in ordered],
        "chosen": next((i for i, p in enumerate(ordered) if p.kind == "chosen"), 0),
    }


def _plan(record: Record, view: ParetoView) -> dict[str, Any]:
    return {
        "name": one_line(record.name, 120),
        "kind": LEGEND[record.kind],
        "bytes": record.weight_bytes,
        "compression": record.compression,
        "error": record.error,
        "y": view.error.place(record.error),
        "latency_s": record.latency_s,
        "measured": record.measured,
        "detail": one_line(record.detail, 200),
        "formats": record.formats,
    }


def _cells(run: Run, records: Records, formats: list[Format]) -> list[dict[str, list[Any]]]:
    """By unit and position of the format: bytes, latency, error, its standard error, kernel."""
    found = []
    for place, unit in enumerate(records.units):
        used = {record.formats[place] for record in records.plans if record.formats}
        found.append({str(i): _cell(run, run.table, unit, formats[i], i) for i in sorted(used)})
    return found


def _cell(run: Run, table: SensitivityTable, unit: str, fmt: Format, position: int) -> list[Any]:
    price = run.prices.price(unit, fmt.name) if run.prices else None
    estimate = table.entries.get(unit, {}).get(fmt)
    own = run.plan.layers[unit] if run.plan else None
    stored = price.weight_bytes if price else None
    if stored is None and own is not None:
        stored = fmt.stored_bytes(*own.matrix)
    return [
        stored,
        _rounded(price.latency_s if price else None),
        _rounded(estimate.error if estimate else None),
        _rounded(estimate.error_se if estimate else None),
        price.kernel if price else -1,
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
