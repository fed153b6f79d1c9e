"""Tables of mixq bench."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from mixq.bench.result import Bench, Row
from mixq.bench.suite import Suite
from mixq.bench.timing import Spread
from mixq.report.tables import number_text, plain

MB = 1e6
COLUMNS = (
    "file\nMB", "latency\nms", "p95\nms", "CPU\nms", "samples\n/s", "time / fp32\n(quartiles)",
    "CPU /\nfp32", "predicted\nms", "its /\nfp32", "private\nMB", "mapped\nMB", "peak\nMB",
    "pred.\nMB",
)  # fmt: skip
"""Two lines each, so that all fit beside each other."""


def bench_table(bench: Bench) -> Table:
    """One row per candidate that ran: size, time, time over fp32, memory, metrics."""
    settings, machine = bench.settings, bench.machine
    table = Table(title=plain(f"{bench.model}: {bench.inputs}"))
    table.add_column("", overflow="fold")
    shown = [(data, name) for data, name in bench.primary.items()]
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for data, name in shown:
        title = name if len(shown) == 1 else f"{data} {name}"
        table.add_column(plain(title), justify="right", overflow="fold")
    for row in bench.rows:
        table.add_row(plain(row.name), *_cells(row, shown))
    table.caption = plain(
        f"{machine.processor}, {machine.cores} cores, load {machine.load:g}; "
        f"{_workload(settings.threads, settings.batch_size, settings.repeat)}; medians, ratios by "
        "round; memory is what a fresh process grows by"
    )
    return table


def suite_table(suite: Suite) -> Table:
    """One row per model, data set and method, with the columns of the source's benchmark."""
    file = suite.file
    table = Table(title=plain(file.name))
    for column in ("model", "data", "method"):
        table.add_column(column, overflow="fold")
    for column in ("accuracy", "latency_ms", "model_size_mb", "throughput", "/ fp32", "peak MB"):
        table.add_column(column, justify="right")
    table.add_column("metric", overflow="fold")
    last = None
    for row in suite.rows:
        if last not in (None, (row.model, row.data)):
            table.add_section()
        last = (row.model, row.data)
        values = row.to_json()
        numbers = ("accuracy", "latency_ms", "model_size_mb", "throughput", "time_ratio")
        shown = [values[key] for key in (*numbers, "peak_memory_mb")]
        table.add_row(
            plain(row.model), plain(row.data), row.method,
            *(number_text(value if isinstance(value, float) else None, 4) for value in shown),
            plain(row.metric or ""),
        )  # fmt: skip
    machine = next(iter(suite.benches.values())).machine
    table.caption = plain(
        f"{file.runtime} on {machine.processor}, {machine.cores} cores, load {machine.load:g}; "
        f"{_workload(file.threads, file.batch_size, file.repeat)}; accuracy is the metric named "
        "beside it, computed through the runtime"
    )
    return table


def faults(bench: Bench) -> list[str]:
    """What did not run and why, a line each."""
    return [f"{row.name} did not run: {row.fault}" for row in bench.rows if row.fault]


def suite_faults(suite: Suite) -> list[str]:
    """The same of a suite: models first, then methods."""
    models = [f"{name} did not run: {fault}" for name, fault in suite.faults.items()]
    return models + [
        f"{name}: {line}" for name, bench in suite.benches.items() for line in faults(bench)
    ]


def _workload(threads: int, batch_size: int, repeat: int) -> str:
    return (
        f"{threads} thread{'s' * (threads > 1)}, batch {batch_size}, {repeat} interleaved rounds "
        "in one process"
    )


def _cells(row: Row, shown: Sequence[tuple[str, str]]) -> list[str]:
    timing, ratio, memory = row.timing, row.ratio, row.memory
    times = [timing.latency_s, timing.latency_p95_s, timing.cpu_s] if timing else [None] * 3
    sizes = (
        [memory.anonymous_bytes, memory.mapped_bytes, memory.peak_bytes] if memory else [None] * 3
    )
    return [
        _scaled(row.file_bytes or None, 1 / MB),
        *(_scaled(seconds, 1e3) for seconds in times),
        "-" if row.throughput_per_s is None else f"{row.throughput_per_s:,.4g}",
        _ratio(None if ratio is None else ratio.wall),
        number_text(None if ratio is None else ratio.cpu.median),
        _scaled(row.predicted_latency_s, 1e3),
        number_text(row.predicted_ratio),
        *(_scaled(size, 1 / MB) for size in (*sizes, row.predicted_peak_bytes)),
        *(number_text(row.metric.get(data, {}).get(name), 4) for data, name in shown),
    ]


def _scaled(value: float | None, factor: float) -> str:
    return number_text(None if value is None else value * factor)


def _ratio(spread: Spread | None) -> str:
    """A ratio, and its quartiles where they differ from it."""
    if spread is None:
        return "-"
    if spread.low == spread.high:
        return f"{spread.median:.3g}"
    return f"{spread.median:.3g} ({spread.low:.3g}-{spread.high:.3g})"
