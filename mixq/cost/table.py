"""CostTable: what every unit costs in every format it may take."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from mixq.cost.spread import Interval, KernelTime, interval, ratio_interval
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
        times: `latency_s` by kernel; empty if nothing is known of spreads.
        loaded_bytes: memory that the weights take; 0 stands for `weight_bytes`.
        is_unpacked: whether no kernel reads the format, so that every pass makes a float copy.
    """

    latency_s: float
    weight_bytes: int
    kernel: str
    reason: str
    times: tuple[KernelTime, ...] = ()
    loaded_bytes: int = 0
    is_unpacked: bool = False


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
        other_times: `other_latency_s` by kernel.
        node_bytes: memory of the operations as the runtime describes them to itself.
        file_graph_bytes, file_unit_bytes: what the file takes beside its tensors: for the graph,
            and for every quantized unit.
        working_bytes: memory of a pass beside the weights if nothing is dequantized
            (`mixq.cost.memory.Working`); None stands for `peak_activation_bytes`.
        unpacked_working_bytes: the same if anything is, with all float copies that may be made.
        cache_bytes: keys and values of past tokens, which every pass reads.
    """

    hardware: str
    runtime: str
    threads: int
    entries: Mapping[str, Mapping[Format, UnitCost]]
    other_latency_s: float
    other_bytes: int
    peak_activation_bytes: int
    runtime_bytes: int
    other_times: tuple[KernelTime, ...] = ()
    node_bytes: int = 0
    file_graph_bytes: int = 0
    file_unit_bytes: int = 0
    working_bytes: int | None = None
    unpacked_working_bytes: int | None = None
    cache_bytes: int = 0

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

    def file_bytes(self, assignment: Mapping[str, Format]) -> int:
        """Bytes of the exported file: tensors, and about what describes them.

        Raises:
            FormatError: if the table lacks a price for the assignment.
        """
        quantized = sum(not fmt.is_float for fmt in assignment.values())
        described = self.file_graph_bytes + quantized * self.file_unit_bytes
        return self.weight_bytes(assignment) + described

    def latency_s(self, assignment: Mapping[str, Format]) -> float:
        """Time of one forward pass of the traced workload; the same in any order of units.

        Raises:
            FormatError: if the table lacks a price for the assignment.
        """
        return math.fsum(
            (self.other_latency_s, *(cost.latency_s for cost in self._chosen(assignment)))
        )

    def times(self, assignment: Mapping[str, Format]) -> list[KernelTime]:
        """Where the time of one forward pass goes, kernel by kernel and unit by unit.

        Raises:
            FormatError: if the table lacks a price for the assignment.
        """
        chosen = [time for cost in self._chosen(assignment) for time in cost.times]
        return [*self.other_times, *chosen]

    def latency_interval(self, assignment: Mapping[str, Format]) -> Interval:
        """80% interval of the latency [s]; both ends are the latency if no spread is known.

        Raises:
            FormatError: if the table lacks a price for the assignment.
        """
        times = self.times(assignment)
        if not times:
            return Interval(self.latency_s(assignment), self.latency_s(assignment))
        return interval(times)

    def speedup_interval(self, assignment: Mapping[str, Format]) -> Interval | None:
        """80% interval of the speed-up over w32; None if nothing is known of it.

        Raises:
            FormatError: if the table lacks a price for the assignment.
        """
        return ratio_interval(self.times({}), self.times(assignment))

    def peak_memory_bytes(self, assignment: Mapping[str, Format]) -> int:
        """The most that is resident at any time, from loading the file to its last pass.

        Inputs are the caller's and do not count.

        Raises:
            FormatError: if the table lacks a price for the assignment.
        """
        chosen = self._chosen(assignment)
        return (
            self.runtime_bytes
            + self._other_memory_bytes
            + sum(_loaded(cost) for cost in chosen)
            + self._working(is_unpacked=any(cost.is_unpacked for cost in chosen))
        )

    def memory_bytes(self, unit: str, fmt: Format) -> int:
        """What a unit adds to peak memory at the most; see `constant_memory_bytes`.

        Raises:
            FormatError: if the table has no such price.
        """
        return _loaded(self.cost(unit, fmt))

    @property
    def constant_memory_bytes(self) -> int:
        """What does not depend on the assignment, so that sums are upper bounds.

        The sum of all units' `memory_bytes` and this is at least `peak_memory_bytes`: it takes the
        larger of two kinds of working memory.
        """
        working = max(self._working(is_unpacked=value) for value in (False, True))
        return self.runtime_bytes + self._other_memory_bytes + working

    @property
    def _other_memory_bytes(self) -> int:
        return self.other_bytes + self.node_bytes + self.cache_bytes

    def _working(self, *, is_unpacked: bool) -> int:
        found = self.unpacked_working_bytes if is_unpacked else self.working_bytes
        return self.peak_activation_bytes if found is None else found

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
            "other_times": [asdict(time) for time in self.other_times],
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
                unit: {Format.parse(name): _unit_cost(cost) for name, cost in prices.items()}
                for unit, prices in document["entries"].items()
            }
            times = _kernel_times(document.get("other_times", ()))
            return cls(**{**document, "entries": entries, "other_times": times})
        except (KeyError, TypeError, ValueError, AttributeError, FormatError) as error:
            raise UsageError(
                f"cost table is malformed: {' '.join(str(error).split())[:200]}; build it again"
            ) from error


def _loaded(cost: UnitCost) -> int:
    return cost.loaded_bytes or cost.weight_bytes


def _unit_cost(document: Mapping[str, Any]) -> UnitCost:
    return UnitCost(**{**document, "times": _kernel_times(document.get("times", ()))})


def _kernel_times(documents: Iterable[Mapping[str, Any]]) -> tuple[KernelTime, ...]:
    return tuple(KernelTime(**document) for document in documents)
