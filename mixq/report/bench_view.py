"""BenchView: what the plot of a bench shows, before any plotting library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mixq.bench.result import BASE, Bench, Row
from mixq.files import one_line
from mixq.report.pareto_view import CHOSEN_COLOUR, FRONTIER_COLOUR, UNIFORM_COLOUR

LONGEST: Final = 34
"""Characters of a name."""
PREDICTED: Final = "predicted by the plan"
PRIVATE_COLOUR: Final = "#1d3f8f"
MAPPED_COLOUR: Final = "#41b6c4"
PRIVATE: Final = "private"
MAPPED: Final = "mapped from files"


@dataclass(frozen=True)
class Panel:
    """One number of every row, as horizontal bars.

    Attributes:
        title: above them.
        values: by row.
        labels: what stands at the end of each bar.
        low, high: quartiles, where there are any.
        marks: predicted values, where there are any.
        second: what is stacked on the values, and then the values are of one part only.
    """

    title: str
    values: tuple[float, ...]
    labels: tuple[str, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    marks: tuple[float | None, ...] = ()
    second: tuple[float, ...] = ()


@dataclass(frozen=True)
class BenchView:
    """Candidates that ran, from top to bottom, and panels from left to right."""

    title: str
    sentence: str
    names: tuple[str, ...]
    colours: tuple[str, ...]
    panels: tuple[Panel, ...]

    @classmethod
    def of(cls, bench: Bench) -> BenchView:
        """The view of a bench in which at least one candidate ran."""
        rows = [row for row in bench.rows if row.timing is not None]
        panels = [_time(rows), _size(rows)]
        if all(row.memory is not None for row in rows):
            panels.append(_memory(rows))
        s = bench.settings
        return cls(
            title=one_line(f"{bench.model}: {bench.inputs}", 110),
            sentence=one_line(
                f"{bench.machine.processor}, {s.threads} thread{'s' * (s.threads > 1)}, batch "
                f"{s.batch_size}; medians of {s.repeat} interleaved rounds, lines are quartiles"
            ),
            names=tuple(_name(row, bench) for row in rows),
            colours=tuple(_colour(row) for row in rows),
            panels=tuple(panels),
        )


def _name(row: Row, bench: Bench) -> str:
    """The row's name with its headline metric, if there is one."""
    name = row.name if len(row.name) <= LONGEST else f"...{row.name[3 - LONGEST :]}"
    shown = [
        f"{metric} {row.metric[data][metric]:.3g}"
        for data, metric in bench.primary.items()
        if data in row.metric
    ]
    return "\n".join([one_line(name), *(one_line(line, 40) for line in shown)])


def _colour(row: Row) -> str:
    if row.name == BASE:
        return FRONTIER_COLOUR
    return UNIFORM_COLOUR if row.name.startswith("uniform ") else CHOSEN_COLOUR


def _time(rows: list[Row]) -> Panel:
    """Over fp32, or in milliseconds where there is no fp32."""
    ratios = [row.ratio.wall for row in rows if row.ratio is not None]
    cpus = [row.ratio.cpu.median for row in rows if row.ratio is not None]
    times = [row.timing.latency_s * 1e3 for row in rows if row.timing is not None]
    if len(ratios) < len(rows):
        return Panel("latency, ms", tuple(times), tuple(f"{ms:.3g} ms" for ms in times))
    return Panel(
        "time over fp32's",
        tuple(ratio.median for ratio in ratios),
        tuple(
            f"{ratio.median:.2f} (CPU {cpu:.2f})" for ratio, cpu in zip(ratios, cpus, strict=True)
        ),
        tuple(ratio.low for ratio in ratios),
        tuple(ratio.high for ratio in ratios),
        tuple(row.predicted_ratio for row in rows),
    )


def _size(rows: list[Row]) -> Panel:
    sizes = tuple(row.file_bytes / 1e6 for row in rows)
    return Panel("file, MB", sizes, tuple(f"{size:.3g}" for size in sizes))


def _memory(rows: list[Row]) -> Panel:
    memories = [row.memory for row in rows if row.memory is not None]
    private = tuple(max(m.anonymous_bytes, 0) / 1e6 for m in memories)
    mapped = tuple(max(m.mapped_bytes, 0) / 1e6 for m in memories)
    return Panel(
        "resident memory of a fresh process, MB",
        private,
        tuple(f"peak {m.peak_bytes / 1e6:.3g}" for m in memories),
        second=mapped,
    )
