"""Reference: the original model's outputs, and how far a changed model's are from them."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mixq.activations.wiring import quantized_inputs
from mixq.batch import Batch, call
from mixq.calibration import Calibration
from mixq.errors import ModelError, NonFiniteError
from mixq.graph.evaluating import evaluating as evaluating
from mixq.graph.replacing import call_with, check_replaceable, recurrent_weights_put_back, slots
from mixq.rounding.replacement import Replacement
from mixq.sensitivity.device import device_of
from mixq.sensitivity.metrics.metric import Metric, Tensors
from mixq.sensitivity.metrics.weighted import Weighted


class Reference:
    """Outputs of the original model on calibration data, kept to compare against.

    Measuring runs the model in eval mode without gradients and leaves its mode as it was; its
    weights are replaced for the call only (`torch.func.functional_call`), never written.

    Attributes:
        model: the original.
        device: where it lies; what it is compared with is moved there.
        batches: of the calibration.
        metric: that outputs are compared by.
        outputs: of the original, those that are compared by name, for each batch.
        own: the same of `model`, which is the original itself but in `around`.
        output: names of the compared outputs with commas; empty for a model with a single one.
        power: mean square of the original's outputs, what relative errors divide by.
        samples: how many errors a measurement gives: one per sample, or one per batch where an
            output does not count samples.

    Raises:
        CalibrationError: if a batch does not fit the model.
        ModelError: if the model cannot be measured: its output holds no floating-point tensor,
            or is NaN or infinite, or nothing that the metric is defined on; it is TorchScript.
    """

    def __init__(
        self, model: nn.Module, calibration: Calibration, metric: Metric | None = None
    ) -> None:
        check_replaceable(model)
        self.model = model
        self.metric = metric = metric or Weighted()
        squares = metric.squares()
        self._slots = slots(model)
        self._wants_gradient = {
            name: tensor.requires_grad
            for named in (model.named_parameters, model.named_buffers)
            for name, tensor in named(remove_duplicate=False)
        }
        self.device = device_of(model)
        self.batches = calibration.to(self.device).batches
        self.outputs: list[dict[str, Tensor]] = []
        powers: list[float] = []
        self._counts: list[int] = []
        self.output = ""
        for batch in self.batches:
            with evaluating(model):  # anew, so that no batch draws what depends on others
                output = call(model, batch)
                picked = metric.pick(output)
                zeros = {name: torch.zeros_like(tensor) for name, tensor in picked.items()}
                power = squares.errors(picked, zeros, batch).tolist()
                if not all(map(math.isfinite, power)):
                    raise ModelError(
                        "the original model's output is NaN or infinite; the first layer whose "
                        f"output is not finite is {_first_bad_layer(model, batch)}"
                    )
                metric.check(picked, batch)
                self.outputs.append({n: tensor.detach().clone() for n, tensor in picked.items()})
                self.output = "" if isinstance(output, Tensor) else ",".join(picked)
                self._counts.append(len(metric.errors(picked, picked, batch)))
                powers += power
        self.own = self.outputs
        self.samples = sum(self._counts)
        self.power = math.fsum(powers) / len(powers)

    def part(self, start: int, stop: int) -> Reference:
        """Batches start..stop - 1 alone; `power` stays that of all."""
        part = copy.copy(self)
        part.batches, part.outputs = self.batches[start:stop], self.outputs[start:stop]
        part.own = self.own[start:stop]
        part._counts = self._counts[start:stop]
        part.samples = sum(part._counts)
        return part

    def around(self, model: nn.Module) -> Reference:
        """The original's outputs to compare with, and a changed copy of it to replace weights in.

        Args:
            model: the copy, on the same device.
        """
        other = copy.copy(self)
        other.model = model
        other.own = []
        for batch in self.batches:
            with evaluating(model):
                picked = self.metric.pick(call(model, batch))
            other.own.append({name: tensor.detach().clone() for name, tensor in picked.items()})
        return other

    def in_squares(self) -> Reference:
        """The same outputs, compared by their mean squared error."""
        other = copy.copy(self)
        other.metric = self.metric.squares()
        return other

    def errors(
        self, replacement: Replacement, what: str, batches: int | None = None
    ) -> list[float]:
        """Output error of every sample with a replacement in place.

        Args:
            replacement: parameters by every name that they have, and what inputs go through.
            what: was changed, for messages.
            batches: run only so many, the first ones.

        Raises:
            NonFiniteError: if an output is NaN or infinite, naming `what` was changed.
            ModelError: if the shape of an output has changed.
        """
        # torch chooses kernels by whether a weight wants a gradient, even where none is taken.
        placed = {
            name: tensor.detach().to(self.device).requires_grad_(self._wants_gradient[name])
            for name, tensor in replacement.tensors.items()
            if name in self._slots
        }
        per_sample: list[float] = []
        with (
            quantized_inputs(self.model, replacement.inputs),
            recurrent_weights_put_back(self.model),
        ):
            for index, batch in enumerate(self.batches[:batches]):
                with evaluating(self.model):
                    outputs = self.metric.pick(call_with(self.model, placed, batch))
                per_sample += self.compared(index, outputs, what)
        return per_sample

    def compared(self, index: int, outputs: Tensors, what: str) -> list[float]:
        """Error of every sample of a batch, given the outputs that it has with `what`.

        Raises:
            NonFiniteError: if one is NaN or infinite.
            ModelError: if an output has another shape.
        """
        original, batch = self.outputs[index], self.batches[index]
        return compared(self.metric, outputs, original, batch, what)


def compared(
    metric: Metric, outputs: Tensors, original: Tensors, batch: Batch, what: str
) -> list[float]:
    """Error of every sample of a batch, given the outputs that it has with `what`.

    Raises:
        NonFiniteError: if one is NaN or infinite.
        ModelError: if an output has another shape than the original's.
    """
    for name, tensor in original.items():
        if outputs[name].shape != tensor.shape:
            raise ModelError(
                f"with {what}, the output has shape {tuple(outputs[name].shape)} instead of "
                f"{tuple(tensor.shape)}; output error needs equal shapes"
            )
    errors: list[float] = metric.errors(outputs, original, batch).tolist()
    if not all(map(math.isfinite, errors)):
        bad = f"the loss {metric.name}" if metric.is_signed else "the model's output"
        raise NonFiniteError(
            f"with {what}, {bad} is NaN or infinite; pin that layer at 32 bits or repair the model"
        )
    return errors


def _first_bad_layer(model: nn.Module, batch: Batch) -> str:
    """Name of the first module to return NaN or infinity when run as it is."""
    bad: list[str] = []

    def look(name: str, output: object) -> None:
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor) and leaf.is_floating_point() and not leaf.isfinite().all():
                bad.append(name)

    handles = [
        module.register_forward_hook(lambda _m, _a, out, name=name: look(name, out))
        for name, module in model.named_modules()
        if not any(True for _ in module.children())
        and not isinstance(module, torch.jit.ScriptModule)  # refuses hooks
    ]
    try:
        call(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return bad[0] if bad else "outside any leaf module"
