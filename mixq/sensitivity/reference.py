"""Reference: the original model's outputs, and how far a changed model's are from them."""

from __future__ import annotations

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
from mixq.sensitivity.outputs import main_output, squared_error


class Reference:
    """Outputs of the original model on calibration data, kept to compare against.

    Measuring runs the model in eval mode without gradients and leaves its mode as it was; its
    weights are replaced for the call only (`torch.func.functional_call`), never written.

    Attributes:
        model: the original.
        batches: of the calibration.
        outputs: of the original, one for each.
        output: name of the compared output.
        power: mean square of the original's output, what relative errors divide by.
        samples: how many errors a measurement gives: one per sample, or one per batch where the
            output does not count samples.

    Raises:
        CalibrationError: if a batch does not fit the model.
        ModelError: if the model cannot be measured: its output holds no floating-point tensor,
            or is NaN or infinite; it is TorchScript.
    """

    def __init__(self, model: nn.Module, calibration: Calibration) -> None:
        check_replaceable(model)
        self.model = model
        self._slots = slots(model)
        self._wants_gradient = {
            name: tensor.requires_grad
            for named in (model.named_parameters, model.named_buffers)
            for name, tensor in named(remove_duplicate=False)
        }
        self.batches = calibration.batches
        self.outputs: list[Tensor] = []
        powers: list[float] = []
        self.output = ""
        with evaluating(model):
            for batch in self.batches:
                main = main_output(call(model, batch))
                power = squared_error(main.tensor, torch.zeros_like(main.tensor), batch).tolist()
                if not all(map(math.isfinite, power)):
                    raise ModelError(
                        "the original model's output is NaN or infinite; the first layer whose "
                        f"output is not finite is {_first_bad_layer(model, batch)}"
                    )
                self.outputs.append(main.tensor.detach().clone())
                self.output = main.name
                powers += power
        self.samples = len(powers)
        self.power = math.fsum(powers) / len(powers)

    def errors(
        self, replacement: Replacement, what: str, batches: int | None = None
    ) -> list[float]:
        """Squared output error of every sample with a replacement in place.

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
            name: tensor.detach().requires_grad_(self._wants_gradient[name])
            for name, tensor in replacement.tensors.items()
            if name in self._slots
        }
        per_sample: list[float] = []
        with (
            evaluating(self.model),
            quantized_inputs(self.model, replacement.inputs),
            recurrent_weights_put_back(self.model),
        ):
            for index, batch in enumerate(self.batches[:batches]):
                output = main_output(call_with(self.model, placed, batch)).tensor
                per_sample += self.compared(index, output, what)
        return per_sample

    def compared(self, index: int, output: Tensor, what: str) -> list[float]:
        """Squared error of every sample of a batch, given the output that it has with `what`.

        Raises:
            NonFiniteError: if it is NaN or infinite.
            ModelError: if it has another shape.
        """
        return compared(output, self.outputs[index], self.batches[index], what)


def compared(output: Tensor, original: Tensor, batch: Batch, what: str) -> list[float]:
    """Squared error of every sample of a batch, given the output that it has with `what`.

    Raises:
        NonFiniteError: if it is NaN or infinite.
        ModelError: if it has another shape than the original's.
    """
    if output.shape != original.shape:
        raise ModelError(
            f"with {what}, the output has shape {tuple(output.shape)} instead of "
            f"{tuple(original.shape)}; output error needs equal shapes"
        )
    errors: list[float] = squared_error(output, original, batch).tolist()
    if not all(map(math.isfinite, errors)):
        raise NonFiniteError(
            f"with {what}, the model's output is NaN or infinite; "
            "pin that layer at 32 bits or repair the model"
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
