"""Flow: a forward pass in which every element is followed to the weights that meet it.

Like `mixq.graph.trace`, it sees what torch dispatches and neither module types nor their order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mixq.equalize.labels import NONE, Labels
from mixq.equalize.parameters import WIDE, Parameters
from mixq.equalize.sites import Site
from mixq.graph.dispatch import Dispatch, attention_in_parts, module_paths, tensors_in
from mixq.graph.evaluating import evaluating
from mixq.graph.operations import SHAPED_LIKE, operator_name


@dataclass(slots=True)
class Flow:
    """What is known of a running pass, and what it leaves behind.

    Attributes:
        is_affine: follow what an affine map per channel commutes with (moving numbers) instead
            of what a positive factor does (that, and homogeneous operations).
        sites: the operations that read weights, in order.
    """

    labels: Labels
    parameters: Parameters
    is_affine: bool
    sites: list[Site] = field(default_factory=list)

    def refusal(self, *names: str | None) -> str | None:
        """Why one of these parameters must stay as it is; None if all may change."""
        causes = (self.parameters.refusal(name) for name in names if name is not None)
        return next((cause for cause in causes if cause is not None), None)

    def alive(self, site: Site) -> Tensor:
        """Which output channels of `site` are read by nothing but known inputs, bool."""
        if site.first is None:
            return torch.zeros(site.channels, dtype=torch.bool)
        return self.labels.alive(site.first, site.channels)

    def cause(self, site: Site) -> str | None:
        """Why an output channel of `site` is not alive; None if all are."""
        if site.first is None:
            return "something that is no parameter is added to its outputs"
        return self.labels.cause(site.first, site.channels)


@dataclass(slots=True)
class Call:
    """One dispatched operation; what a rule does not `take` must not be scaled."""

    flow: Flow
    name: str
    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Tensor
    module: str
    taken: set[int] = field(default_factory=set)

    @property
    def words(self) -> str:
        """The operation and its module, for a reason."""
        return f"{self.name} in {self.module}" if self.module else self.name

    def take(self, tensor: object) -> Tensor | None:
        """Labels of an argument that the rule answers for; None if there are none."""
        if not isinstance(tensor, Tensor):
            return None
        self.taken.add(id(tensor))
        return self.flow.labels.of(tensor)

    def kill(self, labels: Tensor | None) -> None:
        """Give up these labels because of this operation."""
        self.flow.labels.kill(labels, f"read by {self.words}")

    def constant(self, labels: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Labels with `axes` reduced to length 1; those that differ along them are given up."""
        high = labels.amax(axes, keepdim=True)
        low = torch.where(labels < NONE, torch.inf, labels).amin(axes, keepdim=True)
        differs = (low < high) & (high >= 0)
        if bool(differs.any()):
            self.kill(labels[differs.expand_as(labels)])
        return torch.where(differs | (high < NONE), NONE, high)

    def columns(self, labels: Tensor, axis: int) -> Tensor:
        """One label for each position of `axis`, shape (positions,)."""
        axis %= labels.dim()
        others = tuple(i for i in range(labels.dim()) if i != axis)
        return (self.constant(labels, others) if others else labels.clone()).flatten()


Rule = Callable[[Call], Tensor | None]
"""Labels of the first output, which broadcast to its shape; None if it carries none."""


def follow(
    model: nn.Module, run: Callable[[], object], rules: dict[str, Rule], *, is_affine: bool
) -> Flow:
    """Follow `run()`, one forward pass of `model`, which runs in eval mode."""
    flow = Flow(Labels(), Parameters(model), is_affine)
    recorder = _Recorder(flow, rules)
    with (
        attention_in_parts(),
        evaluating(model),
        module_paths(model, recorder.path),
        recorder,
    ):
        output = run()
    flow.labels.kill_remaining(tensors_in(output), "leaves the model")
    flow.parameters.show(tensors_in(output))
    for site in flow.sites:
        cause = flow.refusal(site.weight, site.bias)
        if cause is not None:
            flow.labels.kill(site.inputs, cause)
            if site.first is not None:
                flow.labels.kill(torch.arange(site.first, site.first + site.channels), cause)
    return flow


class _Recorder(Dispatch):
    def __init__(self, flow: Flow, rules: dict[str, Rule]) -> None:
        super().__init__()
        self.path: list[str] = []
        self._flow = flow
        self._rules = rules
        self._steps = 0

    def see(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        inputs, outputs = tensors_in((args, kwargs)), tensors_in(output)
        is_view = not func._schema.is_mutable and _shares(inputs, outputs)
        if inputs and not is_view:
            self._step(func, args, kwargs, inputs, outputs)

    def _step(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        inputs: list[Tensor],
        outputs: list[Tensor],
    ) -> None:
        name = operator_name(func)
        if name in SHAPED_LIKE:
            return
        flow = self._flow
        flow.parameters.read(inputs)
        is_in_place = func._schema.is_mutable and name.endswith("_")
        rule = self._rules.get(name.removesuffix("_") if is_in_place else name)
        labels = None
        call = Call(
            flow=flow,
            name=name,
            func=func,
            args=args,
            kwargs=kwargs,
            output=outputs[0] if outputs else torch.empty(0),
            module=self.path[-1] if self.path else "",
        )
        is_known = rule is not None and (is_in_place or not func._schema.is_mutable)
        # Rounding to a narrow type, or to integers, is not homogeneous.
        if rule is not None and is_known and outputs and outputs[0].dtype in WIDE:
            labels = rule(call)
        for tensor in inputs:
            if id(tensor) not in call.taken:
                call.kill(flow.labels.of(tensor))
        if labels is not None:
            flow.labels.put(outputs[0], labels)
        self._steps += 1
        if self._steps % 64 == 0:
            flow.labels.forget()


def _shares(inputs: list[Tensor], outputs: list[Tensor]) -> bool:
    """Whether all outputs are views of inputs, which carry their labels already."""
    known = {start for tensor in inputs if (start := _start(tensor))}
    return bool(outputs) and all(_start(tensor) in known for tensor in outputs)


def _start(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else 0
