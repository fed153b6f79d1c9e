"""The tensor that output error is measured on, and its difference to another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mixq.calibration import Batch, sample_count
from mixq.errors import ModelError

PREFERRED = ("logits", "last_hidden_state")
"""Keys of Hugging Face outputs, in order of preference."""


@dataclass(frozen=True, slots=True)
class MainOutput:
    """The output that is compared.

    Attributes:
        tensor: of shape (samples, ...).
        name: which output it is: `logits`, `0`, or empty for a model with a single one.
    """

    tensor: Tensor
    name: str


def main_output(output: object) -> MainOutput:
    """The floating-point tensor of a model's output that stands for it.

    A mapping gives `logits`, else `last_hidden_state`, else its first floating tensor; a tuple
    or list its first floating tensor.

    Raises:
        ModelError: if there is no floating-point tensor.
    """
    if isinstance(output, Tensor):
        if not output.is_floating_point():
            raise ModelError(
                f"the model's output is {output.dtype}, but output error needs floating-point "
                "numbers; return scores or logits instead of decisions"
            )
        return MainOutput(output, "")
    if isinstance(output, Mapping):
        items = {str(key): value for key, value in output.items()}
    elif isinstance(output, tuple | list):
        items = {str(index): value for index, value in enumerate(output)}
    else:
        raise ModelError(
            f"the model returns a {type(output).__name__}, but output error needs a tensor, or a "
            "dict, tuple or list that holds one; wrap the model"
        )
    for key in (*(key for key in PREFERRED if key in items), *items):
        value = items[key]
        if isinstance(value, Tensor) and value.is_floating_point():
            return MainOutput(value, key)
        if isinstance(value, Mapping | tuple | list):
            try:
                inner = main_output(value)
            except ModelError:
                continue
            return MainOutput(inner.tensor, f"{key}.{inner.name}".rstrip("."))
    raise ModelError(
        f"the model returns a {type(output).__name__} without a floating-point tensor; "
        "output error needs one"
    )


def squared_error(output: Tensor, reference: Tensor, batch: Batch) -> Tensor:
    """Mean squared difference of each sample, float64 of shape (samples,).

    Positions that a batch's `attention_mask` hides do not count. An output whose first
    dimension does not count samples is one sample.
    """
    difference = (output.detach().to(torch.float32) - reference.to(torch.float32)).square()
    samples = sample_count(batch)
    if difference.dim() == 0 or difference.shape[0] != samples:
        return difference.to(torch.float64).mean().reshape(1)
    mask = batch.get("attention_mask") if isinstance(batch, dict) else None
    if mask is not None and difference.dim() > 2 and mask.shape == difference.shape[:2]:
        per_token = difference.flatten(2).to(torch.float64).mean(2)  # (samples, tokens)
        weight = mask.to(torch.float64)
        return (per_token * weight).sum(1) / weight.sum(1).clamp_min(1.0)
    return difference.flatten(1).to(torch.float64).mean(1) if difference.dim() > 1 else (
        difference.to(torch.float64)
    )
