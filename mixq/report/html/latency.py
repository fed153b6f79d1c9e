"""Latency: where the predicted time goes, unit by unit, beside fp32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mixq.files import one_line
from mixq.plan import Plan
from mixq.report.html.figures import time_text
from mixq.report.html.network import display_names
from mixq.report.prices import W32, Prices

SHOWN: Final = 24
"""Units that are shown at once, the slowest first."""
ALIKE: Final = 0.005
"""Share by which times may differ and still count as the same."""


@dataclass(frozen=True)
class LatencyRow:
    """One unit, or all operations without weights.

    Attributes:
        bar, base: of its time and of fp32's, in percent of the longest; base is None if unknown.
        change: `4.4x slower`, `1.9x faster`, or nothing.
    """

    name: str
    format: str
    bits: int
    kernel: str
    reason: str
    time: str
    bar: float
    base: float | None
    change: str
    is_slower: bool


@dataclass(frozen=True)
class Latency:
    """Rows, the slowest first; `more` are shown when asked for.

    Attributes:
        slower: how many units are slower than in 32 bits; None if that is not known.
    """

    rows: tuple[LatencyRow, ...]
    more: tuple[LatencyRow, ...]
    slower: int | None
    units: int
    has_time: bool

    @classmethod
    def of(cls, plan: Plan, prices: Prices | None) -> Latency:
        """The times of a plan; without prices nothing is known of fp32's."""
        names = display_names(plan)
        longest = max(layer.latency_s for layer in plan.layers.values())
        found = []
        for name, layer in plan.layers.items():
            base = prices.price(name, W32) if prices else None
            own = prices.price(name, layer.format.name) if prices else None
            base_s = None if base is None else base.latency_s
            longest = max(longest, base_s or 0.0)
            reason = prices.reasons[own.reason] if prices and own else ""
            found.append((layer.latency_s, base_s, names[name], layer, reason))
        found.sort(key=lambda item: -item[0])
        other_s = prices.other_latency_s if prices else None
        longest = max(longest, other_s or 0.0) or 1.0
        rows = [
            LatencyRow(
                name, layer.format.name, layer.bits, one_line(layer.kernel, 80),
                one_line(reason, 200), time_text(own_s), _percent(own_s, longest),
                None if base_s is None else _percent(base_s, longest),
                _change(own_s, base_s), base_s is not None and own_s > base_s * (1 + ALIKE),
            )
            for own_s, base_s, name, layer, reason in found
        ]  # fmt: skip
        slower = None if prices is None else sum(row.is_slower for row in rows)
        if other_s is not None:
            place = next((i for i, (s, *_) in enumerate(found) if s < other_s), len(rows))
            rows.insert(
                place,
                LatencyRow(
                    "operations without weights", "", 0, "", "", time_text(other_s),
                    _percent(other_s, longest), None, "", is_slower=False,
                ),
            )  # fmt: skip
        return cls(
            tuple(rows[:SHOWN]), tuple(rows[SHOWN:]), slower, len(plan.layers),
            plan.predicted.latency_s > 0,
        )  # fmt: skip


def _percent(seconds: float, longest: float) -> float:
    return round(100 * seconds / longest, 2)


def _change(own_s: float, base_s: float | None) -> str:
    if base_s is None or not own_s or not base_s or abs(own_s / base_s - 1) <= ALIKE:
        return ""
    ratio = max(own_s / base_s, base_s / own_s)
    shown = f"{ratio:.2f}x" if ratio < 1.995 else f"{ratio:.1f}x"
    return f"{shown} {'slower' if own_s > base_s else 'faster'}"
