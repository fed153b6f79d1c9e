"""Workload: the batch that every candidate is run on."""

from __future__ import annotations

from torch import Tensor

from mixq.batch import Batch, describe, named_tensors
from mixq.calibration import Calibration, repeat_sample
from mixq.errors import UsageError


def workload(calibration: Calibration, batch_size: int, sequence: int | None = None) -> Batch:
    """The first calibration sample, so many times.

    Args:
        calibration: of the model.
        batch_size: samples; a model exported for one size gets its own.
        sequence: tokens that are kept of each sample, for inputs of whole numbers.

    Raises:
        UsageError: if the inputs have no tokens, or fewer.
    """
    batch = repeat_sample(calibration, batch_size)
    if sequence is None:
        return batch
    lengths = [item.shape[1] for _, item in named_tensors(batch) if _has_tokens(item)]
    if not lengths or sequence > min(lengths):
        rule = f"has {min(lengths)} tokens" if lengths else "is no sequence of tokens"
        raise UsageError(
            f"--sequence is {sequence}, but the first calibration sample {rule} "
            f"[{describe(batch)}]; leave it out, or choose a shorter one"
        )

    def cut(item: Tensor) -> Tensor:
        return item[:, :sequence].contiguous() if _has_tokens(item) else item

    if isinstance(batch, Tensor):
        return cut(batch)
    if isinstance(batch, tuple):
        return tuple(map(cut, batch))
    return {name: cut(item) for name, item in batch.items()}


def _has_tokens(item: Tensor) -> bool:
    return item.dim() == 2 and not item.is_floating_point()
