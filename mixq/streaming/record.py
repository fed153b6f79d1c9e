"""Record: the calls of one forward pass, differentiated one by one from the last to the first."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils._pytree import tree_flatten, tree_unflatten

from mixq.errors import ModelError
from mixq.streaming.model import StreamedModel
from mixq.streaming.parts import Part
from mixq.streaming.passes import Call
from mixq.streaming.shelf import Shelf


class _Boundary(torch.autograd.Function):
    """Gives tensors a place in torch's graph that holds none of their numbers."""

    @staticmethod
    def forward(ctx: Any, _anchor: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        return tuple(value.view_as(value) for value in values)

    @staticmethod
    def backward(ctx: Any, *_gradients: Tensor) -> Any:
        raise AssertionError("gradients end at the outputs of parts")


@dataclass(eq=False)
class _Step:
    """One call.

    Attributes:
        part: what was called.
        kept: its arguments, on the shelf.
        entries: where gradients of its inputs go on, None for those that want none.
        exits: where gradients of its outputs arrive, one for each floating-point tensor.
        gradients: of these exits, on the shelf, one list for each probe.
    """

    part: Part
    kept: Any
    entries: list[GradientEdge | None]
    exits: list[GradientEdge] = field(default_factory=list)
    gradients: list[list[Any]] = field(default_factory=list)


class Record:
    """The calls of a pass over one sample, with as many backward passes as there are probes."""

    def __init__(self, streamed: StreamedModel, shelf: Shelf, probes: int) -> None:
        self._streamed = streamed
        self._shelf = shelf
        self._probes = probes
        self._steps: list[_Step] = []
        self._anchor = torch.zeros((), requires_grad=True)
        self._met: set[str] = set()

    @property
    def parts(self) -> tuple[Part, ...]:
        """What was called, in order."""
        return tuple(step.part for step in self._steps)

    def forward(self, asked: Call) -> object:
        """The output of a call whose part is in memory, for the code behind it."""
        leaves, spec = tree_flatten((asked.args, asked.kwargs))
        plain = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        versions = [leaf._version for leaf in plain if isinstance(leaf, Tensor)]
        args, kwargs = tree_unflatten(plain, spec)
        output = self._streamed.run(asked.part, args, kwargs)
        if versions != [leaf._version for leaf in plain if isinstance(leaf, Tensor)]:
            raise ModelError(
                f"{asked.part.path} writes over its inputs, so it cannot be run again for its "
                "gradients; use --sensitivity measured"
            )
        entries = [
            get_gradient_edge(leaf) if isinstance(leaf, Tensor) and leaf.requires_grad else None
            for leaf in leaves
        ]
        step = _Step(asked.part, (self._shelf.put(plain), spec), entries)
        self._steps.append(step)
        return self._with_exits(step, output)

    def begin(self, probe: int, total: Tensor) -> None:
        """Start a backward pass from a sum of outputs."""
        for step in self._steps:
            step.gradients.append([None] * len(step.exits))
        self._push([total], [torch.ones_like(total)], probe, len(self._steps))

    def due(self, index: int) -> list[str]:
        """The units whose gradients `backward` gives: those that no earlier call reads."""
        earlier = {
            unit for step in self._steps[:index] for unit in self._streamed.units_in(step.part)
        }
        own = self._streamed.units_in(self._steps[index].part)
        return [unit for unit in own if unit not in earlier]

    def backward(self, index: int) -> Iterator[dict[str, Tensor]]:
        """Gradients with respect to the units that are `due`, for each probe.

        Gradients of the call's inputs go on to earlier calls. Its part has to be in memory, and
        all later calls have to be behind.
        """
        due = self.due(index)
        again = [
            later
            for later in range(index + 1, len(self._steps))
            if set(due).intersection(self._streamed.units_in(self._steps[later].part))
        ]
        with contextlib.ExitStack() as stack:
            found = []
            for later in reversed(again):  # whose gradients torch would add first
                part = self._steps[later].part
                stack.enter_context(self._streamed.in_memory(part))
                units = [unit for unit in due if unit in self._streamed.units_in(part)]
                found.append(self._differentiated(later, units, push=False))
            found.append(self._differentiated(index, due, push=True))
            for _ in range(self._probes):  # not zip, which holds on to what it gave last
                yield _sum([next(one) for one in found])
        self._met.update(due)
        for behind in (index, *again):
            self._forget(behind)

    def _forget(self, index: int) -> None:
        step = self._steps[index]
        owned = self._streamed.units_in(step.part).keys()
        if all(unit in self._met for unit in owned):
            self._shelf.free((step.kept[0], step.gradients))
            step.kept, step.gradients = ([], None), []

    def _differentiated(
        self, index: int, units: list[str], *, push: bool
    ) -> Iterator[dict[str, Tensor]]:
        """Run a call again and differentiate it, for each probe."""
        step = self._steps[index]
        if not any(g is not None for gradients in step.gradients for g in gradients):
            yield from ({} for _ in range(self._probes))
            return
        kept, spec = step.kept
        leaves = self._shelf.get(kept)
        entered = [
            leaf.detach().requires_grad_() if entry is not None else leaf
            for leaf, entry in zip(leaves, step.entries, strict=True)
        ]
        wanted = [
            leaf
            for leaf, entry in zip(entered, step.entries, strict=True)
            if push and entry is not None
        ]
        places = [entry for entry in step.entries if push and entry is not None]
        weights = [self._streamed.weight(unit) for unit in units]
        args, kwargs = tree_unflatten(entered, spec)
        with torch.enable_grad():
            outputs = _floating(tree_flatten(self._streamed.run(step.part, args, kwargs))[0])
        for probe in range(self._probes):
            made = self._pulled(outputs, [*wanted, *weights], index, probe)
            inner = made[: len(wanted)] if made else []
            if push:
                self._push(places, inner, probe, index)
            # Nothing here holds on to them while the next ones are made: they are large.
            yield {
                unit: gradient
                for unit, gradient in zip(units, made[len(wanted) :], strict=False)
                if gradient is not None
            }
            del made, inner

    def _pulled(
        self, outputs: list[Tensor], wanted: list[Tensor], index: int, probe: int
    ) -> Sequence[Tensor | None]:
        """Gradients of what arrives at a call's outputs, with respect to what is wanted."""
        pairs = [
            (out, self._shelf.get(gradient))
            for out, gradient in zip(outputs, self._steps[index].gradients[probe], strict=True)
            if gradient is not None and out.requires_grad
        ]
        if not pairs or not wanted:
            return ()
        return torch.autograd.grad(
            [out for out, _ in pairs],
            wanted,
            [gradient for _, gradient in pairs],
            retain_graph=probe + 1 < self._probes,
            allow_unused=True,
        )

    def _push(
        self, sources: Sequence[Any], gradients: Sequence[Tensor | None], probe: int, index: int
    ) -> None:
        """Take gradients through the code between parts, to outputs of calls before `index`."""
        exits = [(step, at) for step in self._steps[:index] for at in range(len(step.exits))]
        pairs = [
            (source, gradient)
            for source, gradient in zip(sources, gradients, strict=False)
            if gradient is not None
        ]
        if not pairs or not exits:
            return
        made = torch.autograd.grad(
            [source for source, _ in pairs],
            [step.exits[at] for step, at in exits],
            [gradient for _, gradient in pairs],
            retain_graph=True,
            allow_unused=True,
        )
        for (step, at), gradient in zip(exits, made, strict=True):
            if gradient is None:
                continue
            known = step.gradients[probe][at]
            if known is not None:
                gradient = self._shelf.get(known) + gradient
                self._shelf.free(known)
            step.gradients[probe][at] = self._shelf.put(gradient)

    def _with_exits(self, step: _Step, output: object) -> object:
        leaves, spec = tree_flatten(output)
        values = _floating(leaves)
        if not values:
            return output
        with torch.enable_grad():
            placed = _Boundary.apply(self._anchor, *values)  # type: ignore[no-untyped-call]
        step.exits = [get_gradient_edge(value) for value in placed]
        given = iter(placed)
        return tree_unflatten(
            [next(given) if _is_floating(leaf) else leaf for leaf in leaves], spec
        )


def _sum(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Gradients by unit, added in this order."""
    total: dict[str, Tensor] = {}
    for own in parts:
        for unit, gradient in own.items():
            total[unit] = total[unit] + gradient if unit in total else gradient
    return total


def _floating(leaves: list[Any]) -> list[Tensor]:
    return [leaf for leaf in leaves if _is_floating(leaf)]


def _is_floating(leaf: object) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()
