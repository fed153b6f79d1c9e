"""Squared differences: their mean, and the same relative to the output's own power."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor

from mixq.batch import Batch
from mixq.sensitivity.outputs import counted, rows, squared_error


@final
class MeanSquare:
    """Mean squared difference of the numbers that count.

    With d the change and n its numbers, the error is |d|^2 / n, a quadratic form already: signs
    over sqrt(n) have exactly its expectation.
    """

    name: ClassVar[str] = "mse"

    def check(self, original: Tensor, batch: Batch) -> str | None:
        """Always defined."""
        return None

    def errors(self, changed: Tensor, original: Tensor, batch: Batch) -> Tensor:
        """See `Distance.errors`."""
        return squared_error(changed, original, batch)

    def probe(self, original: Tensor, batch: Batch, signs: Tensor) -> Tensor:
        """See `Distance.probe`."""
        share = counted(original, batch)
        return signs.to(share.dtype) * share.sqrt()


@final
class Relative:
    """Squared difference over the sample's own original: |d|^2 / |y|^2.

    -10 log10 of it is the signal to quantization noise ratio in decibels (SQNR). Against an
    original of zeros nothing is relative, and it is refused.
    """

    name: ClassVar[str] = "relative"

    def check(self, original: Tensor, batch: Batch) -> str | None:
        """Refuses samples whose output is zero."""
        return silent_sample(original, batch)

    def errors(self, changed: Tensor, original: Tensor, batch: Batch) -> Tensor:
        """See `Distance.errors`."""
        error = squared_error(changed, original, batch)
        # A sample whose positions are all hidden has neither.
        return torch.where(error == 0, error, error / _power(original, batch))

    def probe(self, original: Tensor, batch: Batch, signs: Tensor) -> Tensor:
        """See `Distance.probe`."""
        values, _ = rows(original, batch)
        power = _power(original, batch).reshape(-1, 1, 1).expand(values.shape)
        plain = MeanSquare().probe(original, batch, signs)
        scaled = plain / power.reshape(original.shape).sqrt()
        return torch.where(plain == 0, plain, scaled.to(plain.dtype))


def silent_sample(original: Tensor, batch: Batch) -> str | None:
    """That a sample's output is zero wherever it counts, in words; None if no sample's is."""
    _, seen = rows(original, batch)
    silent = (_power(original, batch) == 0) & seen.any(1)
    if not bool(silent.any()):
        return None
    return (
        f"is zero in all of sample {int(silent.nonzero()[0])} of a batch, so no share is defined"
    )


def _power(original: Tensor, batch: Batch) -> Tensor:
    return squared_error(original, torch.zeros_like(original), batch)
