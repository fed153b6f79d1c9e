"""Reference: the original model's outputs, and how far a changed model's are from them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves

from mixq.calibration import Batch, Calibration, call
from mixq.errors import ModelError
from mixq.sensitivity.outputs import main_output, squared_error


class Reference:
    """Outputs of the original model on calibration data, kept to compare against.

    Measuring runs the model in eval mode without gradients and leaves its mode as it was; its
    weights are replaced for the call only (`torch.func.functional_call`), never written.

    Attributes:
        output: name of the compared output.
        power: mean square of the original's output, what relative errors divide by.
    """

    def __init__(self, model: nn.Module, calibration: Calibration) -> None:
        self._model = model
        self._batches = calibration.batches
        self._outputs: list[Tensor] = []
        powers: list[float] = []
        self.output = ""
        for batch in self._batches:
            with evaluating(model):
                main = main_output(call(model, batch))
            if not bool(torch.isfinite(main.tensor).all()):
                raise ModelError(
                    f"the original model's output is NaN or infinite; the first layer whose output "
                    f"is not finite is {_first_bad_layer(model, batch)}"
                )
            self._outputs.append(main.tensor.detach().clone())
            self.output = main.name
            powers += squared_error(
                main.tensor, torch.zeros_like(main.tensor), batch
            ).tolist()
        self.power = sum(powers) / len(powers)

    def errors(self, weights: Mapping[str, Tensor], what: str) -> list[float]:
        """Squared output error of every sample with `weights` (parameter name to tensor) in place.

        Raises:
            ModelError: if an output is NaN or infinite, naming `what` was changed.
        """
        per_sample: list[float] = []
        for batch, original in zip(self._batches, self._outputs, strict=True):
            with evaluating(self._model):
                output = main_output(_forward(self._model, weights, batch)).tensor
            if output.shape != original.shape:
                raise ModelError(
                    f"with {what}, the output has shape {tuple(output.shape)} instead of "
                    f"{tuple(original.shape)}; output error needs equal shapes"
                )
            if not bool(torch.isfinite(output).all()):
                raise ModelError(
                    f"with {what}, the model's output is NaN or infinite; "
                    "pin that layer at 32 bits or repair the model"
                )
            per_sample += squared_error(output, original, batch).tolist()
        return per_sample


def _forward(model: nn.Module, weights: Mapping[str, Tensor], batch: Batch) -> object:
    """The output for `batch` with some parameters replaced for this call."""
    if isinstance(batch, dict):
        return functional_call(model, dict(weights), (), batch)
    return functional_call(model, dict(weights), batch)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; every module's own mode is put back afterwards."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def _first_bad_layer(model: nn.Module, batch: Batch) -> str:
    bad: list[str] = []

    def look(name: str, output: object) -> None:
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor) and leaf.is_floating_point() and not leaf.isfinite().all():
                bad.append(name)

    handles = [
        module.register_forward_hook(lambda _m, _a, out, name=name: look(name, out))
        for name, module in model.named_modules()
        if not any(True for _ in module.children())
    ]
    try:
        with evaluating(model):
            call(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return bad[0] if bad else "outside any leaf module"
