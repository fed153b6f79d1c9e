"""Network: the plan's widths as a bar along the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mixq.files import one_line
from mixq.plan import Plan
from mixq.report.heat_view import short_names
from mixq.report.html.figures import bytes_text

WIDTHS: Final = (32, 16, 8, 4, 2)


@dataclass(frozen=True)
class Segment:
    """One unit.

    Attributes:
        weights, stored_bytes: what its length may be.
        tip: what is said of it.
    """

    bits: int
    weights: int
    stored_bytes: int
    tip: str


@dataclass(frozen=True)
class Share:
    """All units of one width."""

    bits: int
    units: int
    weights: str
    stored: str


@dataclass(frozen=True)
class Network:
    """Units in the order of the model, and what each width holds of them."""

    segments: tuple[Segment, ...]
    shares: tuple[Share, ...]

    @classmethod
    def of(cls, plan: Plan) -> Network:
        """The bar of a plan."""
        names = display_names(plan)
        segments = tuple(
            Segment(
                layer.bits, layer.matrix[0] * layer.matrix[1], layer.weight_bytes,
                f"{names[name]}: {layer.format.name}, "
                f"{layer.matrix[0] * layer.matrix[1]:,} weights in "
                f"{bytes_text(layer.weight_bytes)}",
            )
            for name, layer in plan.layers.items()
        )  # fmt: skip
        weights = sum(segment.weights for segment in segments) or 1
        stored = sum(segment.stored_bytes for segment in segments) or 1
        shares = []
        for bits in WIDTHS:
            own = [segment for segment in segments if segment.bits == bits]
            if own:
                shares.append(
                    Share(
                        bits, len(own),
                        f"{sum(s.weights for s in own) / weights:.0%}",
                        f"{sum(s.stored_bytes for s in own) / stored:.0%}",
                    )
                )  # fmt: skip
        return cls(segments, tuple(shares))


def display_names(plan: Plan) -> Mapping[str, str]:
    """Names of the units as they are shown: short, on one line, without control characters."""
    shown = short_names([one_line(name) for name in plan.layers])
    return dict(zip(plan.layers, shown, strict=True))
