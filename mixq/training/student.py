"""Student: the quantized model of a plan while its numbers are trained."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixq.activations.wiring import quantized_inputs
from mixq.batch import Batch
from mixq.graph.evaluating import evaluating
from mixq.graph.replacing import call_with, recurrent_weights_put_back, slots
from mixq.graph.state import StoredTensor
from mixq.plan_weights import PlanWeights
from mixq.training.unit import TrainedUnit


@dataclass(frozen=True, slots=True)
class Rate:
    """A trained tensor and how large a step of it is, in learning rates."""

    tensor: Tensor
    size: float


class Student:
    """A model that computes with trained numbers in place of its own; it is never written to.

    Args:
        model: the original.
        stored: its stored tensors by name.
        units: what is trained of quantized units, by name.
        others: other parameters that are trained: their values at the start.
        fixed: values of further parameters and buffers that the plan changes.
        inputs: module path to what its input goes through first.

    Attributes:
        units, others: what is trained.
        inputs: as it was given.
        fixed: what is not.
        buffers: new values of buffers, to be kept with the plan.
    """

    def __init__(
        self,
        model: nn.Module,
        stored: Mapping[str, StoredTensor],
        units: Mapping[str, TrainedUnit],
        others: Mapping[str, Tensor],
        fixed: Mapping[str, Tensor],
        inputs: Mapping[str, Callable[[Tensor], Tensor]],
    ) -> None:
        self.model = model
        self.units = units
        self.fixed = dict(fixed)
        self._starts = others
        self.others = {
            name: value.detach().to(torch.float32, copy=True).requires_grad_()
            for name, value in others.items()
        }
        self.buffers: dict[str, Tensor] = {}
        self.inputs = inputs
        own = slots(model)
        self._slots = {
            name: [alias for alias in item.names if alias in own] for name, item in stored.items()
        }

    def trained(self) -> dict[str, Rate]:
        """Everything that is trained, by a name that stays the same."""
        rates: dict[str, Rate] = {}
        for name, unit in self.units.items():
            for part, tensor in {**unit.steps_trained, **unit.weights_trained}.items():
                rates[f"{name} {part}"] = Rate(tensor, 1.0)
        for name, tensor in self.others.items():
            size = float(self._starts[name].detach().to(torch.float32).square().mean().sqrt())
            rates[f"{name} value"] = Rate(tensor, size if size > 0 else 1.0)
        return rates

    def tensors(self) -> dict[str, Tensor]:
        """What takes the place of the model's own numbers, by canonical name, differentiable."""
        values = self.fixed | self.buffers
        values |= {name: unit.weight() for name, unit in self.units.items()}
        values |= {n: value.to(self._starts[n].dtype) for n, value in self.others.items()}
        return values

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Eval mode, with inputs rounded as planned; gradients are off unless turned on within."""
        with (
            recurrent_weights_put_back(self.model),
            evaluating(self.model),
            quantized_inputs(self.model, self.inputs),
        ):
            yield

    def output(self, batch: Batch, tensors: Mapping[str, Tensor]) -> object:
        """The output for `batch` with `tensors` in place; to be called within `running`."""
        placed = {slot: tensor for name, tensor in tensors.items() for slot in self._slots[name]}
        return call_with(self.model, placed, batch)

    @torch.no_grad()
    def plan_weights(self, kept: PlanWeights) -> PlanWeights:
        """What a plan keeps of the student, beside what it kept already.

        Raises:
            FormatError: if a weight does not fit the dtype of its parameter.
        """
        units = {name: unit.packed() for name, unit in self.units.items()}
        others = {n: value.to(self._starts[n].dtype) for n, value in self.others.items()}
        return PlanWeights(
            {**kept.units, **units}, {**kept.others, **others, **self.buffers}, kept.equalization
        )
