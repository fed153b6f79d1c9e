"""Adding: the audit as a picture: added against measured errors, and the largest interactions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from mixq.files import one_line
from mixq.report.audit_view import AuditView, describe
from mixq.report.log_axis import LogAxis, number_label
from mixq.search.audit import Audit

MOST_BARS: Final = 10


@dataclass(frozen=True)
class Dot:
    """A measured plan; x and y in percent of the axes, from the lower left."""

    kind: str
    x: float
    y: float
    tip: str


@dataclass(frozen=True)
class PairBar:
    """An interaction; left, width, low and high in percent of the row."""

    names: tuple[str, str]
    text: str
    left: float
    width: float
    low: float
    high: float
    is_more: bool


@dataclass(frozen=True)
class Adding:
    """What the audit shows.

    Attributes:
        ticks: of both axes: position in percent and label.
        zero: where no interaction is, in percent of a row of bars.
    """

    sentence: str
    dots: tuple[Dot, ...]
    ticks: tuple[tuple[float, str], ...]
    bars: tuple[PairBar, ...]
    zero: float
    error_title: str

    @classmethod
    def of(cls, audit: Audit) -> Adding:
        """The picture of an audit."""
        view = AuditView.of(audit)
        axis = view.axis
        dots = tuple(
            Dot(
                kind, _percent(axis, plan.predicted), _percent(axis, plan.measured),
                "; ".join([one_line(plan.name, 80), *describe(plan)]),
            )
            for kind, plans in view.plans.items()
            for plan in plans
        )  # fmt: skip
        bars = view.bars[:MOST_BARS]
        ends = [bar.percent + side * bar.twice_se for bar in bars for side in (-1, 1)]
        low, high = min([0.0, *ends]), max([0.0, *ends])
        span = (high - low) or 1.0

        def place(value: float) -> float:
            return round(100 * (value - low) / span, 2)

        return cls(
            sentence=view.sentence,
            dots=dots,
            ticks=tuple((_percent(axis, tick), number_label(tick)) for tick in axis.ticks()),
            bars=tuple(
                PairBar(
                    bar.names, f"{bar.percent:+.1f}% ± {bar.twice_se:.1f}%",
                    place(min(0.0, bar.percent)),
                    round(place(max(0.0, bar.percent)) - place(min(0.0, bar.percent)), 2),
                    place(bar.percent - bar.twice_se), place(bar.percent + bar.twice_se),
                    bar.percent > 0,
                )
                for bar in bars
            ),
            zero=place(0.0),
            error_title=view.error_title,
        )  # fmt: skip


def _percent(axis: LogAxis, value: float) -> float:
    place = math.log10(axis.place(value)) - math.log10(axis.low)
    return round(100 * place / axis.decades, 2)
