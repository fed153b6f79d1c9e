"""Weights: one layer's histogram, and under it what every width makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mixq.files import one_line
from mixq.quantize.histogram import BINS, Histogram, WidthPicture
from mixq.report.html.figures import number

KINDS: Final = {32: "float32", 16: "float16", 8: "int8", 4: "int4", 2: "int2"}
WIDE: Final = 1000.0
"""Of the drawing, in its own units."""


@dataclass(frozen=True)
class WidthRow:
    """One width.

    Attributes:
        path: outline of the stored values' histogram, an SVG path in 1000 x 100.
        ticks: of the grid, an SVG path in 1000 x 12; empty for floats.
        first, last: ends of the grid or of the range, in 1000.
    """

    kind: str
    bits: int
    format: str
    path: str
    ticks: str
    first: float
    last: float
    says: str


@dataclass(frozen=True)
class Weights:
    """The picture."""

    unit: str
    why: str
    counted: str
    low: str
    high: str
    rows: tuple[WidthRow, ...]

    @classmethod
    def of(cls, histogram: Histogram) -> Weights:
        """The picture of a histogram."""
        some = histogram.counted < histogram.weights
        return cls(
            unit=one_line(histogram.unit),
            why=f"error {number(histogram.error)} alone in {one_line(histogram.error_format, 60)}",
            counted=f"{histogram.counted:,} of its {histogram.weights:,} weights"
            if some
            else f"{histogram.weights:,} weights",
            low=number(-histogram.limit),
            high=number(histogram.limit),
            rows=tuple(_row(width, histogram.limit) for width in histogram.widths),
        )


def _row(width: WidthPicture, limit: float) -> WidthRow:
    places = [(value / limit + 1) / 2 * WIDE for value in width.grid]
    ends = (places[0], places[-1]) if places else (0.0, WIDE)
    many = f"{width.representable:,} numbers"
    says = [many if width.bits < 16 else f"{many} in this range"]
    says.append(f"error {_percent(width.relative_error)} of the weights' power")
    says.append(f"{_percent(width.zero_share)} become 0")
    return WidthRow(
        kind=KINDS[width.bits],
        bits=width.bits,
        format=one_line(width.format, 40),
        path=_outline(width.counts),
        ticks="".join(f"M{min(max(p, 0.0), WIDE):.1f} 0v12" for p in places),
        first=round(min(max(ends[0], 0.0), WIDE), 1),
        last=round(min(max(ends[1], 0.0), WIDE), 1),
        says="; ".join(says),
    )


def _outline(counts: list[int]) -> str:
    """Bars as one outline; heights by square root, so that tails and spikes are both seen."""
    tallest = max(counts) or 1
    step = WIDE / BINS
    parts = ["M0 100"]
    for index, count in enumerate(counts):
        height = 100 - 100 * (count / tallest) ** 0.5
        parts.append(f"L{index * step:.1f} {height:.1f}H{(index + 1) * step:.1f}")
    return "".join([*parts, "V100Z"])


def _percent(share: float) -> str:
    return f"{number(100 * share, 2)}%"
