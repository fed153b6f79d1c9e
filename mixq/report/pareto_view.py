"""ParetoView: what the Pareto plots show, before any plotting library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from mixq.errors import UsageError
from mixq.files import one_line
from mixq.plan_parts import EVERYWHERE
from mixq.report.log_axis import LogAxis, number_label
from mixq.report.points import PlanPoint, PointKind

ERROR_TITLE: Final = "output error (mean squared difference)"
SIZE_TITLE: Final = "size, MB (below: compression)"
LATENCY_TITLE: Final = "latency, ms"
ZERO_LABEL: Final = "no error at all (0 has no place on a logarithmic axis)"

LABEL_SHARE: Final = 0.1
"""Share of the width that a label beside a point may need."""

LATENCY_COLOURS: Final = ("#d4eeb4", "#41b6c4", "#1d3f8f")
"""From fast to slow; light to dark, so that it survives grey print and colour blindness."""
INK: Final = "#1f2937"
FRONTIER_COLOUR: Final = "#6b7280"
UNIFORM_COLOUR: Final = "#f59e0b"
CHOSEN_COLOUR: Final = "#dc2626"
GRID_COLOUR: Final = "#e5e7eb"

LEGEND: Final[dict[PointKind, str]] = {
    "frontier": "frontier",
    "trial": "trials",
    "uniform": "one width or format everywhere",
    "chosen": "chosen plan",
}


@dataclass(frozen=True)
class ParetoView:
    """Points by kind, smallest plan first, on two logarithmic axes.

    Attributes:
        points: all of them, sorted by size, error and name.
        size: horizontal axis, MB.
        error: vertical axis.
        error_title: what is on it.
    """

    points: tuple[PlanPoint, ...]
    size: LogAxis
    error: LogAxis
    error_title: str = ERROR_TITLE

    @classmethod
    def of(cls, points: Sequence[PlanPoint], metric: str = "mse") -> ParetoView:
        """The view of `points` in any order, whose errors are in `metric`.

        Raises:
            UsageError: if there are none.
        """
        if not points:
            raise UsageError("a Pareto plot of 0 plans shows nothing; pass at least one point")
        ordered = sorted(
            points, key=lambda p: (p.weight_bytes, p.error, p.name, p.kind, p.latency_s)
        )
        return cls(
            tuple(ordered),
            LogAxis.of(point.size_mb for point in points),
            LogAxis.of(point.error for point in points),
            ERROR_TITLE if metric == "mse" else f"output error ({one_line(metric, 60)})",
        )

    def kind(self, kind: PointKind) -> list[PlanPoint]:
        """The points of one kind."""
        return [point for point in self.points if point.kind == kind]

    def xy(self, points: Sequence[PlanPoint]) -> tuple[list[float], list[float]]:
        """Where `points` are drawn."""
        return [p.size_mb for p in points], [self.error.place(p.error) for p in points]

    @property
    def latencies_differ(self) -> bool:
        """Whether the coloured points, those of frontier and trials, need a scale."""
        coloured = (*self.kind("frontier"), *self.kind("trial"))
        return len({point.latency_s for point in coloured}) > 1

    def frontier_line(self) -> list[PlanPoint]:
        """The frontier points that no other one beats in size and error together.

        A frontier over three demands also holds plans that are larger and worse but faster; a
        line through those would go to and fro.
        """
        line: list[PlanPoint] = []
        for point in self.kind("frontier"):
            if not line or point.error < line[-1].error:
                line.append(point)
        return line

    def labelled(self, kind: PointKind) -> list[PlanPoint]:
        """The points whose names stand beside them; those of single formats lie too close."""
        return [point for point in self.kind(kind) if not point.name.endswith(EVERYWHERE)]

    def label_is_left(self, points: Sequence[PlanPoint]) -> list[bool]:
        """Whether the label of each point belongs on its left, away from a neighbour."""
        spans = [
            math.log10(right.size_mb / left.size_mb) / self.size.decades
            for left, right in pairwise(points)
        ]
        return [*(span < LABEL_SHARE for span in spans), *([False] if points else [])]

    def legend(self, kind: PointKind) -> str:
        """Name of a kind, with what its errors are if they are all of one sort."""
        measured = {point.measured for point in self.kind(kind)}
        if len(measured) != 1:
            return LEGEND[kind]
        return f"{LEGEND[kind]} ({'measured' if measured.pop() else 'predicted'})"

    def size_labels(self, line_break: str) -> list[str]:
        """Labels of the size ticks, each with the compression that it means."""
        original_mb = self.points[0].size_mb * self.points[0].compression
        labels = []
        for tick in self.size.ticks():
            compression = float(f"{original_mb / tick:.2g}")
            second = f"{line_break}{number_label(compression)}x" if compression >= 1 else ""
            labels.append(f"{number_label(tick)}{second}")
        return labels

    def error_labels(self) -> list[str]:
        """Labels of the error ticks."""
        return [number_label(tick) for tick in self.error.ticks()]


def describe(point: PlanPoint) -> list[str]:
    """What there is to say about one plan, in lines."""
    lines = [
        f"{point.size_mb:,.4g} MB, compression {point.compression:.3g}x",
        f"error {point.error:.4g} ({'measured' if point.measured else 'predicted'})",
        f"latency {point.latency_s * 1e3:,.4g} ms",
    ]
    return [*lines, point.detail] if point.detail else lines
