"""Choice and Item: one format that a unit may take, and units that take one format together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixq.formats import Format
from mixq.search.limits import Quantity


@dataclass(frozen=True, slots=True)
class Choice:
    """One format that a unit may take, and what it costs there.

    Attributes:
        error: output error that this unit alone adds.
        weight_bytes: bytes stored for the unit.
        latency_s: time of the unit's operations in one forward pass [s].
        memory_bytes: what the unit adds to peak memory at the most; None is `weight_bytes`.
    """

    format: Format
    error: float
    weight_bytes: int
    latency_s: float
    memory_bytes: int | None = None

    @property
    def peak_memory_bytes(self) -> int:
        """Bytes that the unit adds to peak memory."""
        return self.weight_bytes if self.memory_bytes is None else self.memory_bytes


@dataclass(frozen=True)
class Item:
    """Units that take one format together: a unit by itself, or the units of a tie.

    All arrays have shape (formats,) and share one order: bytes, then error, then latency, then
    the format's name.
    """

    units: tuple[str, ...]
    formats: tuple[Format, ...]
    weight_bytes: NDArray[np.int64]
    errors: NDArray[np.float64]
    latencies_s: NDArray[np.float64]
    memory_bytes: NDArray[np.int64]

    def values(self, quantity: Quantity) -> NDArray[np.int64] | NDArray[np.float64]:
        """One quantity of every format, shape (formats,)."""
        if quantity == "weight_bytes":
            return self.weight_bytes
        if quantity == "peak_memory_bytes":
            return self.memory_bytes
        return self.errors if quantity == "error" else self.latencies_s
