"""From a traced model and a profile to a CostTable."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from mixq.cost.fusion import Step, fusion, left_over
from mixq.cost.kernels import NO_WEIGHTS, W32, Call, kernel_for, price, weight_matrix
from mixq.cost.machine import Machine
from mixq.cost.memory import loaded_bytes, rule_of, working
from mixq.cost.path import critical_path
from mixq.cost.spread import ASSUMED_SPREAD, KernelTime, by_kernel
from mixq.cost.table import CostTable, UnitCost
from mixq.errors import FormatError
from mixq.formats import Format
from mixq.graph.model_graph import ModelGraph
from mixq.graph.units import WeightUnit
from mixq.graph.work import Work
from mixq.profiles import Profile


def build_cost_table(
    graph: ModelGraph,
    formats: Mapping[str, Sequence[Format]],
    profile: Profile,
    *,
    runtime: str | None = None,
    threads: int | None = None,
    cache_bytes: int = 0,
    blocks: Mapping[str, int] | None = None,
) -> CostTable:
    """Prices of every unit of `graph` in w32 and in its candidate formats.

    Args:
        graph: the traced model.
        formats: unit name -> candidates; a unit that is not named has w32 only.
        profile: the chip.
        runtime: a runtime of the profile, by default the profile's own choice.
        threads: cores in use, by default the profile's own choice.
        cache_bytes: of keys and values of past tokens, see `mixq.cost.memory.cache_bytes`.
        blocks: units whose kernels are known: columns that share one range of the rounded
            activations, 0 where these stay floats. By default the exporter's rule of thumb.

    Raises:
        FormatError: if `formats` names something that is no unit of the graph.
        ProfileError: if the profile has no such runtime, or only measured kernels of it.
        UsageError: if the chip has not that many cores.
    """
    unknown = next((name for name in formats if name not in graph.units), None)
    if unknown is not None:
        raise FormatError(
            f"formats name {unknown[:80]!r}, which is no weight unit of the traced model; "
            "leave it out or correct the name"
        )
    machine = Machine.of(profile, profile.searched_runtime(runtime).name, threads)
    rule = rule_of(machine)
    pricing = _Pricing(machine, graph, blocks or {})
    others = pricing.others()
    entries = {
        name: {
            fmt: pricing.unit_cost(unit, fmt)
            for fmt in dict.fromkeys((W32, *formats.get(name, ())))
        }
        for name, unit in graph.units.items()
    }
    copies = {
        name: 4 * graph.units[name].weights
        for name, prices in entries.items()
        if any(cost.is_unpacked for cost in prices.values())
    }
    spaces = working(rule, graph, copies)
    return CostTable(
        hardware=profile.name,
        runtime=machine.runtime.name,
        threads=machine.threads,
        entries=entries,
        other_latency_s=math.fsum(
            [machine.runtime.call_overhead_s, *(call.latency_s for call in others)]
        ),
        other_times=_times(others),
        other_bytes=graph.other_bytes,
        peak_activation_bytes=graph.peak_activation_bytes,
        runtime_bytes=machine.runtime.memory_bytes,
        node_bytes=rule.node_bytes * graph.digraph.number_of_nodes(),
        file_graph_bytes=rule.file_node_bytes * graph.digraph.number_of_nodes(),
        file_unit_bytes=rule.file_unit_bytes,
        working_bytes=spaces.folded_bytes,
        unpacked_working_bytes=spaces.apart_bytes,
        cache_bytes=cache_bytes,
    )


def reads(
    profile: Profile, *, runtime: str | None = None, threads: int | None = None
) -> Callable[[WeightUnit, Format], bool]:
    """Whether the runtime has a kernel for every operation of a unit in a format.

    An operation that only looks at single weights asks for none.
    """

    def read(unit: WeightUnit, fmt: Format) -> bool:
        kinds = [work for work in unit.work if weight_matrix(work) != NO_WEIGHTS]
        return bool(kinds) and all(
            kernel_for(profile, runtime, work, fmt, threads=threads)[0] is not None
            for work in kinds
        )

    return read


class _Pricing:
    """Prices of one graph on one machine."""

    def __init__(self, machine: Machine, graph: ModelGraph, blocks: Mapping[str, int]) -> None:
        self._machine, self._graph, self._blocks = machine, graph, blocks
        self._fusion = fusion(graph.digraph)
        self._nodes: dict[str, list[str]] = {}
        for node, data in graph.digraph.nodes(data=True):
            for unit in data["units"]:
                self._nodes.setdefault(unit, []).append(node)
        products = sum(
            data["work"].kind == "gemm" and bool(data["units"])
            for _, data in graph.digraph.nodes(data=True)
        )
        self._fine = products > machine.runtime.coarse_products
        self._working_sets: dict[Format, float] = {}
        self._hidden = self._off_path() if machine.runtime.parallel else frozenset()

    def unit_cost(self, unit: WeightUnit, fmt: Format) -> UnitCost:
        """Price of one unit: the time of all its operations and of what follows them."""
        calls: list[Call] = []
        waited: list[Call] = []
        for node, work in zip(self._nodes.get(unit.name, ()), unit.work, strict=True):
            call = self._call(unit, node, work, fmt)
            calls.append(call)
            if node not in self._hidden:
                waited += [call, *self._behind(node, call)]
        is_unpacked = not fmt.is_float and any(call.kernel is None for call in calls)
        return UnitCost(
            latency_s=math.fsum(call.latency_s for call in waited),
            times=_times(waited),
            weight_bytes=unit.stored_bytes(fmt),
            loaded_bytes=loaded_bytes(rule_of(self._machine), unit, fmt),
            is_unpacked=is_unpacked,
            kernel=" + ".join(dict.fromkeys(call.name for call in calls)) or "none",
            reason="; ".join(dict.fromkeys(call.reason for call in calls))
            or "the traced batch never reached it",
        )

    def _call(self, unit: WeightUnit, node: str, work: Work, fmt: Format) -> Call:
        """One operation of a unit."""
        whole, matrix = (unit.rows, unit.columns), weight_matrix(work)
        # Elementwise work does not say what it reads, so it reads the whole unit.
        read = whole if matrix == NO_WEIGHTS else matrix
        return price(
            self._machine, work, fmt, read, unit.element_bytes, whole,
            op=self._graph.digraph.nodes[node].get("op", ""),
            working_set_bytes=self._working_set_bytes(fmt), images=self._images(node),
            fine=self._fine, block=self._blocks.get(unit.name),
        )  # fmt: skip

    def _off_path(self) -> frozenset[str]:
        """Nodes that run beside the longest path; which it is, 32 bits decide."""
        seconds: dict[str, float] = {}
        for unit in self._graph.units.values():
            for node, work in zip(self._nodes.get(unit.name, ()), unit.work, strict=True):
                call = self._call(unit, node, work, W32)
                own = (call, *self._behind(node, call))
                seconds[node] = seconds.get(node, 0.0) + sum(part.latency_s for part in own)
        for node, step in self._other_steps():
            seconds[node] = seconds.get(node, 0.0) + self._step(step).latency_s
        path = critical_path(self._graph.digraph, seconds, parallel=True)
        return frozenset(self._graph.digraph) - frozenset(path)

    def _images(self, node: str) -> int:
        """Samples of a convolution's result."""
        shape = self._graph.digraph.nodes[node].get("shape", ())
        return int(shape[0]) if len(shape) > 2 and shape[0] else 1

    def others(self) -> list[Call]:
        """What a forward pass runs beside its units."""
        return [self._step(step) for node, step in self._other_steps() if node not in self._hidden]

    def _other_steps(self) -> Iterator[tuple[str, Step]]:
        """Operations that read no unit, and what is transposed for attention, by their nodes."""
        claimed = self._fusion.claimed
        for node, data in self._graph.digraph.nodes(data=True):
            if not data["units"] and node not in claimed:
                yield node, (data["work"], data.get("op", ""))
            for step in self._fusion.turned.get(node, ()):
                yield node, step

    def _behind(self, node: str, call: Call) -> list[Call]:
        """What the call's kernel leaves to kernels behind it."""
        followers = self._fusion.followers.get(node, ())
        steps = left_over(self._graph.digraph, node, followers, call.read, self._graph.batch_size)
        return [self._step(step) for step in steps]

    def _step(self, step: Step) -> Call:
        work, op = step
        return price(self._machine, work, W32, NO_WEIGHTS, op=op)

    def _working_set_bytes(self, fmt: Format) -> float:
        """What passes through the caches in one forward pass where all units have `fmt`.

        A plan has many formats; each unit is priced as if the others had its own.
        """
        if fmt not in self._working_sets:
            moved = [
                min(
                    unit.stored_bytes(fmt), sum(_read_bytes(unit, work, fmt) for work in unit.work)
                )
                for unit in self._graph.units.values()
            ]
            self._working_sets[fmt] = sum(moved) + self._graph.peak_activation_bytes
        return self._working_sets[fmt]


def _read_bytes(unit: WeightUnit, work: Work, fmt: Format) -> int:
    rows, columns = weight_matrix(work)
    if rows * columns == 0:
        return unit.stored_bytes(fmt)
    return fmt.stored_bytes(rows, columns, unit.element_bytes)


def _times(calls: Sequence[Call]) -> tuple[KernelTime, ...]:
    return by_kernel(
        KernelTime(
            call.name,
            call.latency_s,
            ASSUMED_SPREAD if call.kernel is None else call.kernel.spread,
        )
        for call in calls
    )
