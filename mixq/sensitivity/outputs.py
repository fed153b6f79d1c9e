"""The tensors that output error is measured on, and the difference of two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mixq.batch import Batch, sample_count
from mixq.errors import ModelError

PREFERRED = ("logits", "last_hidden_state")
"""Keys of Hugging Face outputs, in order of preference."""
ONLY = "output"
"""What a tensor that is a model's whole output is called."""


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


def floating_outputs(output: object) -> dict[str, Tensor]:
    """Every floating-point tensor with numbers in it of a model's output, by its path.

    `logits`, `0`, `hidden_states.1`: keys and positions from the outside in, joined by dots; a
    tensor that is the whole output is `output`. What is no tensor, mapping, tuple or list is
    passed over.
    """
    if isinstance(output, Tensor):
        return {ONLY: output} if output.is_floating_point() and output.numel() > 0 else {}
    found: dict[str, Tensor] = {}
    pending = [("", output)]
    while pending:
        name, item = pending.pop(0)
        if isinstance(item, Tensor):
            if item.is_floating_point() and item.numel() > 0:
                found[name] = item
            continue
        items = _items(item)
        pending = [(f"{name}.{key}" if name else key, value) for key, value in items] + pending
    return found


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
    """The share that each number of an output has in the mean of `squared_error`.

    Shape of the output, at least float32; the shares add up to 1, and for each sample to the same
    unless all of its positions are hidden.
    """
    values, seen = rows(output, batch)
    dtype = torch.promote_types(output.dtype, torch.float32)
    each = seen.sum(1, keepdim=True).clamp_min(1) * (seen.shape[0] * values.shape[2])
    return (seen.to(dtype) / each).unsqueeze(2).expand(values.shape).reshape(output.shape)


def rows(output: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """An output as rows of its last dimension, and which of them count.

    By the rule of `squared_error`: positions that a batch's `attention_mask` hides do not, if the
    output is (samples, tokens, ...); an output whose first dimension does not count samples is one
    sample.

    Returns:
        Values of shape (samples, positions, numbers), a view where possible, and a bool tensor of
        shape (samples, positions).
    """
    last = output.shape[-1] if output.dim() else 1
    samples = sample_count(batch)
    if output.dim() == 0 or output.shape[0] != samples:
        values = output.reshape(1, -1, last)
    elif output.dim() == 1:
        values = output.reshape(samples, 1, 1)
    else:
        values = output.reshape(samples, -1, last)
    seen = torch.ones(values.shape[:2], dtype=torch.bool, device=output.device)
    mask = batch.get("attention_mask") if isinstance(batch, dict) else None
    if mask is not None and output.dim() > 2 and mask.shape == output.shape[:2]:
        seen = (mask > 0).repeat_interleave(values.shape[1] // mask.shape[1], dim=1)
    return values, seen


def _first(output: object, name: str) -> MainOutput | None:
    """The first floating-point tensor with numbers in it, in depth; `name` leads to `output`."""
    if isinstance(output, Tensor):
        has_numbers = output.is_floating_point() and output.numel() > 0
        return MainOutput(output, name) if has_numbers else None
    items = dict(_items(output))
    for key in (*(key for key in PREFERRED if key in items), *items):
        found = _first(items[key], f"{name}.{key}" if name else key)
        if found is not None:
            return found
    return None


def _items(output: object) -> list[tuple[str, object]]:
    """What a mapping, tuple or list holds, by key or position; nothing for anything else."""
    if isinstance(output, Mapping):
        return [(str(key), value) for key, value in output.items()]
    return [(str(i), v) for i, v in enumerate(output)] if isinstance(output, tuple | list) else []
