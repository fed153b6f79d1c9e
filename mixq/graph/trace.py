"""Trace of one forward pass: every operation that torch dispatches, on any model.

A `TorchDispatchMode` sees what really ran, below modules, so that it needs neither
`torch.export` nor module types, and loops, LSTMs and raw parameters are seen as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import networkx as nx
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from mixq.graph.operations import describe
from mixq.graph.units import WeightUnit
from mixq.graph.work import Work


@dataclass(frozen=True, slots=True)
class _Value:
    """What is known of one tensor: weights it was made from, or who made it and where it lies."""

    units: tuple[str, ...] = ()
    producers: tuple[str, ...] = ()
    storage: int | None = None


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


def trace(model: nn.Module, units: list[WeightUnit], run: Callable[[], object]) -> Trace:
    """Record what `run()`, one forward pass of `model`, computes.

    Inputs are every tensor that no traced operation made and that is no weight.
    """
    recorder = _Recorder(model, units)
    fastpath = torch.backends.mha.get_fastpath_enabled()
    # The fused attention layer hides its matrix products from the trace.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), _module_paths(model, recorder.path), recorder:
            output = run()
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
    return recorder.finish(output)


class _Recorder(TorchDispatchMode):
    def __init__(self, model: nn.Module, units: list[WeightUnit]) -> None:
        super().__init__()
        self.path: list[str] = []
        self._values: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._trace = Trace(work={unit.name: [] for unit in units})
        self._lives: list[list[int]] = []  # per storage: bytes, first step, last step
        self._steps = 0
        names = {name: unit.name for unit in units for name in (unit.name, *unit.aliases)}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            self._values[parameter] = _Value(units=(names[name],) if name in names else ())
        for buffer in model.buffers():
            self._values[buffer] = _Value()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        known = [self._value(tensor) for tensor in inputs]
        output = func(*args, **kwargs)
        outputs = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        units = tuple(dict.fromkeys(unit for value in known for unit in value.units))
        active = [value for value in known if value.storage is not None]
        if self._is_view(inputs, outputs, func):
            for tensor in outputs:
                self._values[tensor] = known[0]
        elif active or (units and describe(func, args, kwargs, output, units, {}) is not None):
            self._record(func, args, kwargs, inputs, known, output, outputs, units)
        else:  # made of weights and constants alone: still a weight, or nothing
            for tensor in outputs:
                self._values[tensor] = _Value(units=units)
        return output

    def finish(self, output: object) -> Trace:
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor) and tensor in self._values:
                storage = self._values[tensor].storage
                if storage is not None:
                    self._lives[storage][2] = self._steps
        change = [0] * (self._steps + 2)
        for size, first, last in self._lives:
            change[first] += size
            change[last + 1] -= size
        live = peak = 0
        for step in change:
            live += step
            peak = max(peak, live)
        self._trace.peak_activation_bytes = peak
        return self._trace

    def _value(self, tensor: Tensor) -> _Value:
        if tensor not in self._values:  # an input of the network
            self._values[tensor] = _Value(storage=self._allocate(tensor))
        value: _Value = self._values[tensor]
        return value

    def _allocate(self, tensor: Tensor) -> int:
        self._lives.append([_bytes(tensor), self._steps, self._steps])
        return len(self._lives) - 1

    @staticmethod
    def _is_view(inputs: list[Tensor], outputs: list[Tensor], func: Any) -> bool:
        if not inputs or not outputs or func._schema.is_mutable:
            return False
        start = inputs[0].untyped_storage().data_ptr()
        return start != 0 and all(
            tensor.untyped_storage().data_ptr() == start for tensor in outputs
        )

    def _record(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        inputs: list[Tensor],
        known: list[_Value],
        output: Any,
        outputs: list[Tensor],
        units: tuple[str, ...],
    ) -> None:
        weights_by_id = {
            id(tensor): value.units
            for tensor, value in zip(inputs, known, strict=True)
            if value.units and value.storage is None
        }
        self._steps += 1
        read = sum(
            _bytes(tensor)
            for tensor, value in zip(inputs, known, strict=True)
            if value.storage is not None
        )
        written = sum(_bytes(tensor) for tensor in outputs)
        parts = describe(func, args, kwargs, output, units, weights_by_id) or [
            (Work("elementwise"), units)
        ]
        producers = [p for value in known for p in value.producers]
        for index, (work, readers) in enumerate(parts):
            node = f"{self._trace.digraph.number_of_nodes():05d}"
            sized = Work(
                work.kind, work.m, work.n, work.k, work.groups, work.repeats,
                input_bytes=read if index == 0 else 0,
                output_bytes=written if index == len(parts) - 1 else 0,
            )  # fmt: skip
            self._trace.digraph.add_node(
                node,
                work=sized,
                units=readers,
                op=str(func),
                module=self.path[-1] if self.path else "",
                shape=tuple(outputs[0].shape) if outputs else (),
            )
            self._trace.digraph.add_edges_from((producer, node) for producer in producers)
            for unit in readers:
                self._trace.work[unit].append(sized)
            producers = [node]
        for value in known:
            if value.storage is not None:
                self._lives[value.storage][2] = self._steps
        storages = {
            tensor.untyped_storage().data_ptr(): value.storage
            for tensor, value in zip(inputs, known, strict=True)
            if value.storage is not None
        }
        for tensor in outputs:
            storage = storages.get(tensor.untyped_storage().data_ptr())
            if storage is None:
                storage = self._allocate(tensor)
            self._values[tensor] = _Value(producers=tuple(producers), storage=storage)


@contextlib.contextmanager
def _module_paths(model: nn.Module, path: list[str]) -> Iterator[None]:
    """Keep the names of the running modules in `path`, innermost last."""
    handles = []
    for name, module in model.named_modules():
        handles.append(
            module.register_forward_pre_hook(lambda _m, _a, name=name: path.append(name))
        )
        handles.append(
            module.register_forward_hook(lambda _m, _a, _o: path.pop() and None, always_call=True)
        )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
