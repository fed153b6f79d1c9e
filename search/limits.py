"""Totals of an assignment, and the upper limits that they must keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Quantity = Literal["weight_bytes", "error", "latency_s", "peak_memory_bytes"]
"""The sums of an assignment that can be limited or made small."""


@dataclass(frozen=True, slots=True)
class Totals:
    """What a whole assignment costs.

    Attributes:
        error: correctly rounded sum of the units' errors.
        weight_bytes: bytes of all units and of everything else that is stored.
        latency_s: time of one forward pass [s].
        peak_memory_bytes: what all units add to peak memory at the most, plus what does not
            depend on the assignment: an upper bound of what the cost table predicts.
        compression: original bytes over `weight_bytes`.
    """

    error: float
    weight_bytes: int
    latency_s: float
    peak_memory_bytes: int
    compression: float


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper limits that an assignment's totals must keep; None is no limit."""

    weight_bytes: int | None = None
    latency_s: float | None = None
    error: float | None = None
    peak_memory_bytes: int | None = None

    @property
    def objective(self) -> Quantity:
        """What is made small: the error if bytes, time or memory are limited, else the bytes."""
        limits = (self.weight_bytes, self.latency_s, self.peak_memory_bytes)
        return "weight_bytes" if limits == (None, None, None) else "error"

    @property
    def has_sum_of_its_own(self) -> bool:
        """Whether a sum beside bytes and errors is limited, which dynamic programming has not."""
        return self.latency_s is not None or self.peak_memory_bytes is not None

    def of(self, quantity: Quantity) -> float | None:
        """The limit of one quantity."""
        limit: float | None = getattr(self, quantity)
        return limit

    def given(self) -> tuple[Quantity, ...]:
        """The quantities that have a limit."""
        names: tuple[Quantity, ...] = ("weight_bytes", "latency_s", "error", "peak_memory_bytes")
        return tuple(name for name in names if self.of(name) is not None)

    def allow(self, totals: Totals) -> bool:
        """Whether `totals` keeps every limit, exactly."""
        return all(getattr(totals, name) <= getattr(self, name) for name in self.given())
