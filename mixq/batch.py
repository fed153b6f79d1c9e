"""Batch: one input of a model, and how it is handed to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from mixq.errors import CalibrationError, MixqError

Batch: TypeAlias = Tensor | tuple[Tensor, ...] | dict[str, Tensor]
"""One positional argument of forward, all positional ones, or all keyword arguments by name."""


def named_tensors(batch: Batch) -> list[tuple[str, Tensor]]:
    """The tensors of a batch with their keyword, or their position as `0`, `1`, ..."""
    if isinstance(batch, Tensor):
        return [("0", batch)]
    if isinstance(batch, tuple):
        return [(str(index), item) for index, item in enumerate(batch)]
    return list(batch.items())


def sample_count(batch: Batch) -> int:
    """Samples of a batch: the first dimension of its tensors."""
    return named_tensors(batch)[0][1].shape[0]


def describe(batch: Batch) -> str:
    """Dtypes and shapes of a batch in words: `float32 (8, 64)`, `input_ids int64 (8, 64)`."""
    names = isinstance(batch, dict)
    return ", ".join(
        f"{name + ' ' if names else ''}{str(item.dtype).removeprefix('torch.')} "
        f"{tuple(item.shape)}"
        for name, item in named_tensors(batch)
    )


def call(model: nn.Module, batch: Batch) -> object:
    """The output of `model` for `batch`; gradients and mode are left to the caller.

    Raises:
        CalibrationError: if the model does not take the batch; chained to the error of torch.
    """
    try:
        if isinstance(batch, dict):
            return model(**batch)
        return model(*batch) if isinstance(batch, tuple) else model(batch)
    except MixqError:
        raise
    except Exception as error:  # a user's model may raise anything; it is reported, not swallowed
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        labelled = isinstance(error, TypeError) and "were given" in reason
        hint = "; if the second tensor is labels, yield inputs only"
        raise CalibrationError(
            f"model {type(model).__name__} does not take the calibration batch "
            f"[{describe(batch)}]: {reason}; pass inputs that its forward accepts"
            f"{hint if labelled and isinstance(batch, tuple) and len(batch) == 2 else ''}"
        ) from error


def to_batch(item: object) -> Batch:
    """A batch from what a user passes; tensors lose their graph, lists become tuples."""
    if isinstance(item, Tensor):
        return item.detach()
    if isinstance(item, Mapping):
        return {key: _tensor(f"input {key!r}", value) for key, value in item.items()}
    if isinstance(item, tuple | list):
        return tuple(_tensor(f"input {index}", value) for index, value in enumerate(item))
    return _tensor("batch", item)


def _tensor(what: str, value: object) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    raise CalibrationError(
        f"calibration {what} is a {type(value).__name__}, but it must be a tensor; convert it "
        "with torch.as_tensor or leave it out"
    )


def check_batch(index: int, batch: Batch) -> None:
    """Refuse a batch that breaks a rule of Calibration."""
    where = f"calibration batch {index}"
    if isinstance(batch, dict) and not all(isinstance(key, str) for key in batch):
        raise CalibrationError(
            f"{where} has the keys {list(batch)}, but keys must be names of forward's arguments"
        )
    items = named_tensors(batch)
    if not items:
        raise CalibrationError(f"{where} has no tensors, but it needs at least one input")
    for name, item in items:
        if item.layout is not torch.strided or item.is_meta:
            raise CalibrationError(
                f"{where}, input {name}: a {item.layout} tensor on {item.device} cannot be read; "
                "pass dense tensors with data"
            )
        if item.ndim == 0 or item.numel() == 0:
            raise CalibrationError(
                f"{where}, input {name} has shape {tuple(item.shape)}, but it needs at least one "
                "sample in its first dimension"
            )
        # Widened, because torch has no isfinite for 8-bit floats.
        wide = item.float() if item.dtype.itemsize == 1 else item
        if item.is_floating_point() and not bool(wide.isfinite().all()):
            raise CalibrationError(
                f"{where}, input {name} holds NaN or infinity; remove those samples"
            )
    if len({item.shape[0] for _, item in items}) > 1:
        raise CalibrationError(
            f"{where} has first dimensions that differ [{describe(batch)}], but they all count "
            "the same samples; expand each to the batch size"
        )


def part_of(batch: Batch, low: int, high: int) -> Batch:
    """Samples low..high - 1 of one batch."""
    if isinstance(batch, Tensor):
        return batch[low:high]
    if isinstance(batch, tuple):
        return tuple(item[low:high] for item in batch)
    return {name: item[low:high] for name, item in batch.items()}


def moved_batch(batch: Batch, device: torch.device) -> Batch:
    """A batch on a device."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, tuple):
        return tuple(item.to(device) for item in batch)
    return {name: item.to(device) for name, item in batch.items()}
