"""Trace of one forward pass: every operation that torch dispatches, on any model.

A `Dispatch` sees what really ran, below modules, so that it needs neither `torch.export` nor
module types, and loops, LSTMs and raw parameters are seen as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import networkx as nx
import torch
from torch import Tensor, nn

from mixq.graph.dispatch import Dispatch, attention_in_parts, module_paths, tensors_in
from mixq.graph.operations import SHAPED_LIKE, Part, describe, operator_name, shared_out
from mixq.graph.units import WeightUnit
from mixq.graph.values import Value, Values
from mixq.graph.work import Work


@dataclass
class Trace:
    """What a traced pass leaves behind.

    Attributes:
        digraph: the operations, see `ModelGraph`.
        work: the operations that read each unit, in order.
        peak_activation_bytes: largest sum of live activations.
    """

    digraph: nx.DiGraph[str] = field(default_factory=nx.DiGraph)
    work: dict[str, list[Work]] = field(default_factory=dict)
    peak_activation_bytes: int = 0

    def add(
        self, part: Part, producers: list[str], *, op: str, module: str, shape: tuple[int, ...]
    ) -> str:
        """Add one kernel behind its producers; the name of its node."""
        work, units = part
        node = f"{self.digraph.number_of_nodes():06d}"
        self.digraph.add_node(node, work=work, units=units, op=op, module=module, shape=shape)
        self.digraph.add_edges_from((producer, node) for producer in producers)
        for unit in units:
            self.work[unit].append(work)
        return node


Placed: TypeAlias = Callable[[str, Tensor], None]
"""Is told of a parameter that is put in place while the model runs, by its name."""


def trace(
    model: nn.Module,
    units: list[WeightUnit],
    run: Callable[[], object],
    watch: Callable[[Placed], None] | None = None,
) -> Trace:
    """Record what `run()`, one forward pass of `model`, computes.

    Inputs are every tensor that no traced operation made and that `model` does not own. What
    depends on no input is part of the weights and has no node of its own, unless it takes a
    matrix product, a convolution or a look-up.

    Args:
        model: any module.
        units: of it.
        run: calls it.
        watch: is given whom to tell of parameters that are put in place meanwhile.
    """
    recorder = _Recorder(model, units)
    if watch is not None:
        watch(recorder.own)
    with attention_in_parts(), torch.no_grad(), module_paths(model, recorder.path), recorder:
        output = run()
    return recorder.finish(output)


class _Recorder(Dispatch):
    def __init__(self, model: nn.Module, units: list[WeightUnit]) -> None:
        super().__init__()
        self.path: list[str] = []
        self._values = Values(model, units)
        self._sizes = {unit.name: unit.weights for unit in units}
        self._trace = Trace(work={unit.name: [] for unit in units})

    def see(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        outputs = tensors_in(output)
        name = operator_name(func)
        if name == "lift_fresh" or name in SHAPED_LIKE:
            for tensor in outputs:
                self._values.put(tensor, Value())
            return
        inputs = tensors_in((args, kwargs))
        known = [self._values.of(tensor) for tensor in inputs]
        if not func._schema.is_mutable and _is_view(inputs, outputs):
            for tensor in outputs:
                self._values.put(tensor, known[0])
            return
        constants = {
            id(tensor): value.units
            for tensor, value in zip(inputs, known, strict=True)
            if not value.is_active
        }
        parts = self._parts(describe(func, args, output, constants), known)
        if parts:
            self._record(str(func), parts, inputs, known, outputs)
        else:
            self._fold(str(func), known, outputs)

    def own(self, name: str, parameter: Tensor) -> None:
        self._values.own(name, parameter)

    def finish(self, output: object) -> Trace:
        self._trace.peak_activation_bytes = self._values.peak_bytes(tensors_in(output))
        return self._trace

    def _parts(self, kernels: list[Part], known: list[Value]) -> list[Part]:
        """What a call runs, one part per kernel; nothing if it only makes weights of weights."""
        units = tuple(dict.fromkeys(unit for value in known for unit in value.units))
        is_active = any(value.is_active for value in known)
        # An initial state of zeros, say, that meets a weight matrix.
        meets_constant = bool(kernels and units) and any(not value.units for value in known)
        is_computed = not units and any(value.storage is not None for value in known)
        if not (is_active or meets_constant or is_computed):
            return []
        parts = [part for kernel in kernels for part in self._shared_out(kernel)]
        read = {unit for _, readers in parts for unit in readers}
        rest = tuple(unit for unit in units if unit not in read)
        # A unit that is read beside the product (as its bias, say) is read element by element.
        return [(Work("elementwise"), rest), *parts] if rest or not parts else parts

    def _shared_out(self, kernel: Part) -> list[Part]:
        work, units = kernel
        shares = shared_out(work, [self._sizes[unit] for unit in units]) if units[1:] else None
        if shares is None:
            return [kernel]
        return [(share, (unit,)) for share, unit in zip(shares, units, strict=True)]

    def _record(
        self,
        op: str,
        parts: list[Part],
        inputs: list[Tensor],
        known: list[Value],
        outputs: list[Tensor],
    ) -> None:
        self._values.step()
        read = sum(
            _bytes(tensor)
            for tensor, value in zip(inputs, known, strict=True)
            if value.storage is not None
        )
        written = sum(map(_bytes, outputs))
        producers = [node for value in known for node in value.producers]
        node = ""
        for index, (work, readers) in enumerate(parts):
            sized = replace(
                work,
                input_bytes=read if index == 0 else 0,
                output_bytes=written if index == len(parts) - 1 else 0,
            )
            node = self._add((sized, readers), producers, op, outputs)
            producers = [node]
        for value in known:
            self._values.use(value)
        active = any(value.is_active for value in known)
        others = list(zip(inputs, known, strict=True))
        for tensor in outputs:
            value = self._values.write(tensor, others, node, is_active=active)
            others.append((tensor, value))

    def _fold(self, op: str, known: list[Value], outputs: list[Tensor]) -> None:
        """Note that `outputs` are made of weights and constants alone."""
        units = tuple(dict.fromkeys(unit for value in known for unit in value.units))
        producers = tuple(dict.fromkeys(node for value in known for node in value.producers))
        for tensor in outputs:
            # What has the result's size is the matrix; the rest (a norm, a factor) changed it.
            kept = tuple(u for u in units if self._sizes[u] == tensor.numel()) or units
            dropped = tuple(unit for unit in units if unit not in kept)
            if dropped:
                part = (Work("elementwise"), dropped)
                producers = (self._add(part, list(producers), op, outputs),)
                units = kept
            self._values.put(tensor, Value(units=kept, producers=producers))

    def _add(self, part: Part, producers: list[str], op: str, outputs: list[Tensor]) -> str:
        shape = tuple(outputs[0].shape) if outputs else ()
        module = self.path[-1] if self.path else ""
        return self._trace.add(part, producers, op=op, module=module, shape=shape)


def _is_view(inputs: list[Tensor], outputs: list[Tensor]) -> bool:
    if not inputs or not outputs:
        return False
    start = inputs[0].untyped_storage().data_ptr()
    return start != 0 and all(tensor.untyped_storage().data_ptr() == start for tensor in outputs)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
