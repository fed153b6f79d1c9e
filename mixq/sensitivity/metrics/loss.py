"""LossIncrease: by how much a user's own loss grows."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from mixq.batch import Batch, sample_count
from mixq.errors import MixqError, ModelError
from mixq.files import one_line
from mixq.sensitivity.metrics.choice import Loss
from mixq.sensitivity.metrics.metric import Metric, Tensors
from mixq.sensitivity.metrics.weighted import Weighted, chosen
from mixq.sensitivity.outputs import ONLY


@final
@dataclass(frozen=True)
class LossIncrease:
    """loss(outputs, batch) with a change in place, less that of the original.

    The loss gets the model's output where that is a tensor, and else its floating-point outputs
    by name (`logits`, `0`, `hidden_states.1`); and the calibration batch. It returns a tensor of
    one number per sample, or a single number for the batch, which is one sample then.

    An increase may be negative for a sample. A mean below zero is entered as zero, with its
    standard error (`Estimate.of_errors`): what a change seems to gain on calibration data is noise
    or a fit to them, and no reason to round a layer harder than one that loses nothing.

    Attributes:
        loss: the user's.
        weights: of the outputs that it gets; it weighs them itself, these are for `squares`.
        name: module and name of the function.
    """

    loss: Loss
    weights: Mapping[str, float]
    name: str
    is_signed: bool = field(default=True, init=False)

    @property
    def fingerprint(self) -> str:
        """Name, source and outputs; what the function reads from elsewhere is not seen."""
        source = hashlib.sha256(_source(self.loss).encode()).hexdigest()
        return f"{self.name} {source} {json.dumps(dict(self.weights), sort_keys=True)}"

    def pick(self, output: object) -> dict[str, Tensor]:
        """See `Metric.pick`."""
        return chosen(output, self.weights)

    def check(self, original: Tensors, batch: Batch) -> None:
        """Calls the loss once."""
        values = self._values(original, batch)
        if not bool(values.isfinite().all()):
            raise ModelError(
                f"the loss {self.name} of the original model is NaN or infinite; call it on the "
                "model's output by itself to debug"
            )

    def errors(self, changed: Tensors, original: Tensors, batch: Batch) -> Tensor:
        """See `Metric.errors`; they may be negative."""
        ours, theirs = self._values(changed, batch), self._values(original, batch)
        if ours.shape != theirs.shape:
            raise ModelError(
                f"the loss {self.name} gives {len(ours)} numbers for the changed model and "
                f"{len(theirs)} for the original; it must not depend on which it is"
            )
        return ours - theirs

    def probes(self, original: Tensors, batch: Batch, signs: torch.Generator) -> dict[str, Tensor]:
        """Refused: of a loss neither a minimum nor a Hessian is known."""
        raise ModelError(
            f"the loss {self.name} cannot be sketched, only the built-in metrics can; use "
            "--sensitivity auto or measured"
        )

    def squares(self) -> Metric:
        """See `Metric.squares`."""
        return Weighted(weights=self.weights)

    def _values(self, outputs: Tensors, batch: Batch) -> Tensor:
        # Copies: what a loss does to its arguments in place must not reach the next measurement.
        given: Any = {name: tensor.clone() for name, tensor in outputs.items()}
        if list(given) == [ONLY]:
            given = given[ONLY]
        try:
            with torch.no_grad():
                found = self.loss(given, dict(batch) if isinstance(batch, dict) else batch)
        except MixqError:
            raise
        except Exception as error:  # a user's code may raise anything; it is reported
            raise ModelError(
                f"the loss {self.name} failed with {type(error).__name__}: "
                f"{one_line(error, 200) or 'no message'}; call it on the model's output by itself "
                "to debug"
            ) from error
        if isinstance(found, float):
            found = torch.tensor(found)
        count = sample_count(batch)
        if (
            not isinstance(found, Tensor)
            or not found.is_floating_point()
            or found.shape not in ((), (count,))
        ):
            shape = tuple(found.shape) if isinstance(found, Tensor) else None
            what = type(found).__name__ if shape is None else f"{found.dtype} tensor {shape}"
            raise ModelError(
                f"the loss {self.name} returns a {what} for a batch of {count} samples, but it "
                f"must return a floating-point tensor ({count},), or a single number"
            )
        return found.detach().double().reshape(-1)


def name_of(loss: Loss) -> str:
    """Module and name of a function; of anything else that can be called, its class's."""
    named = loss if hasattr(loss, "__qualname__") else type(loss)
    return f"{named.__module__}:{named.__qualname__}"


def _source(loss: Loss) -> str:
    try:
        return inspect.getsource(loss if inspect.isroutine(loss) else type(loss))
    except (OSError, TypeError):  # typed at a prompt, or compiled
        return ""
