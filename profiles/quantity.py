"""Quantity: a number of a profile with its unit and its source, turned into SI units once."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

Dimension = Literal[
    "time", "time per weight", "size", "bandwidth", "rate", "frequency", "count", "ratio"
]

UNITS: Final[dict[str, dict[str, str]]] = {
    "time": {"s": "1", "ms": "1e-3", "us": "1e-6", "ns": "1e-9"},
    "time per weight": {"ns/weight": "1e-9", "ps/weight": "1e-12"},
    "size": {"B": "1", "kB": "1e3", "MB": "1e6", "GB": "1e9"}
    | {"KiB": str(2**10), "MiB": str(2**20), "GiB": str(2**30)},
    "bandwidth": {"B/s": "1", "MB/s": "1e6", "GB/s": "1e9", "TB/s": "1e12", "B/cycle": "1"},
    "rate": {"Gop/s": "1e9", "Top/s": "1e12", "op/cycle": "1"},
    "frequency": {"MHz": "1e6", "GHz": "1e9"},
    "count": {"cores": "1", "threads": "1", "units": "1"},
    "ratio": {"1": "1", "x": "1"},
}
"""Factor of every unit to the SI unit of its dimension; `.../cycle` is finished by the clock."""

Text = Annotated[str, StringConstraints(min_length=1, max_length=1000, pattern=r"^[^\x00-\x1f]+$")]


class Quantity(BaseModel):
    """`{ value = 204.8, unit = "GB/s", source = "..." }`: positive, finite and sourced."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    value: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    unit: Text
    source: Text

    @property
    def per_cycle(self) -> bool:
        """Whether the value has to be multiplied by a clock to be a rate."""
        return self.unit.endswith("/cycle")

    def si(self, clock_hz: float = 1.0) -> float:
        """The value in the SI unit of its dimension; per-cycle values are times `clock_hz`.

        Decimal arithmetic, so that 204.8 GB/s and 0.2048 TB/s are the same float.
        """
        factor = next(units[self.unit] for units in UNITS.values() if self.unit in units)
        clock = Decimal(repr(clock_hz)) if self.per_cycle else Decimal(1)
        return float(Decimal(repr(self.value)) * Decimal(factor) * clock)


def _measured_in(dimension: Dimension) -> AfterValidator:
    """Refuses a quantity of another dimension, and one that rounds to zero or overflows in SI."""

    def check(quantity: Quantity) -> Quantity:
        units = UNITS[dimension]
        if quantity.unit not in units:
            raise ValueError(
                f"unit {quantity.unit[:20]!r} is not one of {dimension}; "
                f"write one of {', '.join(units)}"
            )
        if not 1e-30 <= quantity.si() <= 1e30:
            raise ValueError(f"{quantity.value:g} {quantity.unit} is outside 1e-30..1e30 in SI")
        return quantity

    return AfterValidator(check)


def _at_most_one(quantity: Quantity) -> Quantity:
    if quantity.value > 1:
        raise ValueError(f"an efficiency is at most 1, got {quantity.value:g}")
    return quantity


def _at_least_one(quantity: Quantity) -> Quantity:
    if quantity.value < 1:
        raise ValueError(f"a slow-down is at least 1, got {quantity.value:g}")
    return quantity


def _whole(quantity: Quantity) -> Quantity:
    if not quantity.value.is_integer() or quantity.value > 65536:
        raise ValueError(f"a count is a whole number up to 65536, got {quantity.value:g}")
    return quantity


Time = Annotated[Quantity, _measured_in("time")]
TimePerWeight = Annotated[Quantity, _measured_in("time per weight")]
Size = Annotated[Quantity, _measured_in("size")]
Bandwidth = Annotated[Quantity, _measured_in("bandwidth")]
Rate = Annotated[Quantity, _measured_in("rate")]
Frequency = Annotated[Quantity, _measured_in("frequency")]
Count = Annotated[Quantity, _measured_in("count"), AfterValidator(_whole)]
Efficiency = Annotated[Quantity, _measured_in("ratio"), AfterValidator(_at_most_one)]
Slowdown = Annotated[Quantity, _measured_in("ratio"), AfterValidator(_at_least_one)]
Spread = Annotated[Quantity, _measured_in("ratio")]
