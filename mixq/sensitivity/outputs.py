"""The tensor that output error is measured on, and its difference to another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mixq.batch import Batch, sample_count
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
    or list its first floating tensor; both are searched in depth. Empty tensors are passed over.

    Raises:
        ModelError: if there is no floating-point tensor.
    """
    if isinstance(output, Tensor) and not output.is_floating_point():
        raise ModelError(
            f"the model's output is {output.dtype}, but output error needs floating-point "
            "numbers; return scores or logits instead of decisions"
        )
    found = _first(output, "")
    if found is not None:
        return found
    if isinstance(output, Tensor | Mapping | tuple | list):
        raise ModelError(
            f"the model returns a {type(output).__name__} without floating-point numbers; "
            "output error needs some"
        )
    raise ModelError(
        f"the model returns a {type(output).__name__}, but output error needs a tensor, or a "
        "dict, tuple or list that holds one; wrap the model"
    )


def squared_error(output: Tensor, reference: Tensor, batch: Batch) -> Tensor:
    """Mean squared difference of each sample, float64 of shape (samples,).

    Positions that a batch's `attention_mask` hides do not count. An output whose first
    dimension does not count samples is one sample.
    """
    # At least float32: squares of halves overflow beyond 256.
    dtype = torch.promote_types(output.dtype, torch.float32)
    difference = (output.detach().to(dtype) - reference.to(dtype)).square()
    samples = sample_count(batch)
    if difference.dim() == 0 or difference.shape[0] != samples:
        return difference.mean(dtype=torch.float64).reshape(1)
    mask = batch.get("attention_mask") if isinstance(batch, dict) else None
    if mask is not None and difference.dim() > 2 and mask.shape == difference.shape[:2]:
        seen = mask > 0
        per_token = difference.flatten(2).mean(2, dtype=torch.float64)  # (samples, tokens)
        # Not a product: what a model writes at hidden positions may be NaN.
        kept = torch.where(seen, per_token, torch.zeros_like(per_token))
        return kept.sum(1) / seen.sum(1).clamp_min(1)
    return difference.reshape(samples, -1).mean(1, dtype=torch.float64)


def counted(output: Tensor, batch: Batch) -> Tensor:
    """The share that each number of a single sample's output has in `squared_error`.

    Shape and dtype of the output; the shares add up to 1.
    """
    mask = batch.get("attention_mask") if isinstance(batch, dict) else None
    has_tokens = output.dim() > 2 and mask is not None and mask.shape == output.shape[:2]
    seen = torch.ones_like(output)
    if has_tokens and mask is not None:
        shape = (*mask.shape, *(1,) * (output.dim() - 2))
        seen = (mask > 0).to(output.dtype).reshape(shape).expand_as(output)
    return seen / seen.sum().clamp_min(1)


def _first(output: object, name: str) -> MainOutput | None:
    """The first floating-point tensor with numbers in it, in depth; `name` leads to `output`."""
    if isinstance(output, Tensor):
        has_numbers = output.is_floating_point() and output.numel() > 0
        return MainOutput(output, name) if has_numbers else None
    if isinstance(output, Mapping):
        items = {str(key): value for key, value in output.items()}
    elif isinstance(output, tuple | list):
        items = {str(index): value for index, value in enumerate(output)}
    else:
        return None
    for key in (*(key for key in PREFERRED if key in items), *items):
        found = _first(items[key], f"{name}.{key}" if name else key)
        if found is not None:
            return found
    return None
