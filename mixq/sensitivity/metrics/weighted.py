"""Weighted: a distance of one output, or the weighted mean of those of several."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, final

import torch
from torch import Tensor

from mixq.batch import Batch
from mixq.errors import ModelError
from mixq.files import one_line
from mixq.sensitivity.metrics.metric import Distance, Metric, Tensors
from mixq.sensitivity.metrics.squares import MeanSquare
from mixq.sensitivity.outputs import ONLY, floating_outputs, main_output

TOKEN_SCORES: Final = ("start_logits", "end_logits")
"""Outputs of shape (samples, tokens), by the names that Hugging Face's question answering gives
them. Any other matrix as wide as the mask may as well be (samples, classes)."""
LONGEST_LIST: Final = 20
"""Outputs that a message names."""


@final
@dataclass(frozen=True)
class Weighted:
    """The mean of an error over outputs, with weights that add up to 1.

    Where one output does not count samples, each batch is one sample for all of them.

    Attributes:
        distance: of one output.
        weights: by name; None takes the main output of whatever model it meets.
    """

    distance: Distance = field(default_factory=MeanSquare)
    weights: Mapping[str, float] | None = None
    is_signed: bool = field(default=False, init=False)

    @property
    def name(self) -> str:
        """The distance's."""
        return self.distance.name

    @property
    def fingerprint(self) -> str:
        """Name and weights."""
        return f"{self.name} {json.dumps(self.weights and dict(self.weights), sort_keys=True)}"

    def pick(self, output: object) -> dict[str, Tensor]:
        """See `Metric.pick`."""
        if self.weights is None:
            main = main_output(output)
            return {main.name or ONLY: main.tensor}
        return chosen(output, self.weights)

    def check(self, original: Tensors, batch: Batch) -> None:
        """See `Metric.check`."""
        for name, tensor in original.items():
            why = self.distance.check(tensor, batch)
            if why is not None:
                raise ModelError(
                    f"the model's output {one_line(name, 100)!r} {why} in the metric {self.name}; "
                    "choose another metric, or other outputs"
                )

    def errors(self, changed: Tensors, original: Tensors, batch: Batch) -> Tensor:
        """See `Metric.errors`."""
        parts = {
            name: self.distance.errors(
                _by_token(name, changed[name], batch), _by_token(name, tensor, batch), batch
            )
            for name, tensor in original.items()
        }
        if len(parts) == 1:
            return next(iter(parts.values()))
        if len({len(part) for part in parts.values()}) > 1:
            parts = {name: part.mean().reshape(1) for name, part in parts.items()}
        return torch.stack([self._weight(name) * part for name, part in parts.items()]).sum(0)

    def probes(self, original: Tensors, batch: Batch, signs: torch.Generator) -> dict[str, Tensor]:
        """See `Metric.probes`: independent signs for each output make the weighted sum."""
        self.check(original, batch)
        found = {}
        for name, tensor in original.items():
            seen = _by_token(name, tensor, batch)
            drawn = (torch.randint(0, 2, seen.shape, generator=signs) * 2 - 1).to(tensor.device)
            probe = self.distance.probe(seen, batch, drawn.float())
            found[name] = self._weight(name) ** 0.5 * probe.reshape(tensor.shape)
        return found

    def squares(self) -> Metric:
        """See `Metric.squares`."""
        return replace(self, distance=MeanSquare())

    def _weight(self, name: str) -> float:
        return 1.0 if self.weights is None else self.weights[name]


def chosen(output: object, names: Mapping[str, float]) -> dict[str, Tensor]:
    """The floating-point outputs of these names, in their order.

    Raises:
        ModelError: if there is none of a name.
    """
    found = floating_outputs(output)
    for name in names:
        if name not in found:
            listed = [one_line(known, 60) for known in found]
            more = f" and {len(listed) - LONGEST_LIST} more" if len(listed) > LONGEST_LIST else ""
            raise ModelError(
                f"the model has no floating-point output {one_line(repr(name), 100)}; it returns "
                f"{', '.join(listed[:LONGEST_LIST]) or 'none'}{more}"
            )
    return {name: found[name] for name in names}


def _by_token(name: str, tensor: Tensor, batch: Batch) -> Tensor:
    """An output of a score per token with one more dimension, where masks are looked for."""
    mask = batch.get("attention_mask") if isinstance(batch, dict) else None
    per_token = name.rpartition(".")[2] in TOKEN_SCORES
    if per_token and mask is not None and tensor.shape == mask.shape:
        return tensor.unsqueeze(2)
    return tensor
