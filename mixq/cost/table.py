"""CostTable: what every unit costs in every format it may take."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from mixq.errors import FormatError, UsageError
from mixq.formats import Format

_W32: Final = Format(32)


@dataclass(frozen=True, slots=True)
class UnitCost:
    """Price of one unit in one format.

    Attributes:
        latency_s: time of all operations of one forward pass that read the unit.
        weight_bytes: exact bytes stored for the unit.
        kernel: what would run, in words; several joined by " + ".
        reason: why that, in words.
    """

    latency_s: float
    weight_bytes: int
    kernel: str
    reason: str


@dataclass(frozen=True)
class CostTable:
    """Prices of a model on one chip, in one runtime, on so many threads.

    An assignment maps unit names to formats; units that it does not name stay in w32.

    Attributes:
        entries: unit name -> format -> price; every unit has a w32 entry.
        other_latency_s: time of the operations that read no unit.
        other_bytes: bytes stored for everything that is not a unit.
        peak_activation_bytes: largest sum of live activations.
        runtime_bytes: memory that the runtime takes whatever the model is.
    """

    hardware: str
    runtime: str
    threads: int
    entries: Mapping[str, Mapping[Format, UnitCost]]
    other_latency_s: float
    other_bytes: int
    peak_activation_bytes: int
    runtime_bytes: int

    def cost(self, unit: str, fmt: Format) -> UnitCost:
        """Price of one unit in one format.

        Raises:
            FormatError: if the table has no such price.
        """
        if unit not in self.entries:
            raise FormatError(
                f"unit {unit[:80]!r} has no price on {self.hardware!r}; "
                "name one of the units of the model that was traced"
            )
        if fmt not in self.entries[unit]:
            raise FormatError(
                f"unit {unit!r} has no price in {fmt.name!r}; "
                f"choose one of {', '.join(choice.name for choice in self.entries[unit])}"
            )
        return self.entries[unit][fmt]

    def weight_bytes(self, assignment: Mapping[str, Format]) -> int:
        """Exact bytes of everything stored.

        Raises:
            FormatError: if the table lacks a price for the assignment.
        """
        return self.other_bytes + sum(cost.weight_bytes for cost in self._chosen(assignment))

    def latency_s(self, assignment: Mapping[str, Format]) -> float:
        """Time of one forward pass of the traced workload; the same in any order of units.

        Raises:
            FormatError: if the table lacks a price for the assignment.
        """
        return math.fsum(
            (self.other_latency_s, *(cost.latency_s for cost in self._chosen(assignment)))
        )

    def peak_memory_bytes(self, assignment: Mapping[str, Format]) -> int:
        """Weights, live activations and runtime together.

        Raises:
            FormatError: if the table lacks a price for the assignment.
        """
        return self.weight_bytes(assignment) + self.peak_activation_bytes + self.runtime_bytes

    @property
    def baseline_latency_s(self) -> float:
        """Time of one forward pass with every unit in w32."""
        return self.latency_s({})

    def _chosen(self, assignment: Mapping[str, Format]) -> list[UnitCost]:
        chosen = dict.fromkeys(self.entries, _W32) | dict(assignment)
        return [self.cost(unit, fmt) for unit, fmt in chosen.items()]

    def to_dict(self) -> dict[str, Any]:
        """The table as JSON types; formats by their names."""
        return {
            **{name: getattr(self, name) for name in self.__dataclass_fields__},
            "entries": {
                unit: {fmt.name: asdict(cost) for fmt, cost in prices.items()}
                for unit, prices in self.entries.items()
            },
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises:
            UsageError: if the document is no cost table.
        """
        try:
            entries = {
                unit: {Format.parse(name): UnitCost(**cost) for name, cost in prices.items()}
                for unit, prices in document["entries"].items()
            }
            return cls(**{**document, "entries": entries})
        except (KeyError, TypeError, AttributeError, FormatError) as error:
            raise UsageError(
                f"cost table is malformed: {' '.join(str(error).split())[:200]}; build it again"
            ) from error
