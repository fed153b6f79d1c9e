"""Angle: one minus the cosine between an output and the original's."""

from __future__ import annotations

import math
from typing import ClassVar, final

import torch
from torch import Tensor

from mixq.batch import Batch
from mixq.sensitivity.metrics.squares import silent_sample
from mixq.sensitivity.outputs import rows


@final
class Angle:
    """1 - cos(y, y + d), over all numbers of a sample that count; from 0 to 2.

    Blind to the output's scale: what embeddings are compared by. A changed output of zeros is at
    right angles to everything, with an error of 1; an original of zeros is refused.

    To second order it is |d_|^2 / (2 |y|^2), where d_ = (I - u u^T) d is the part of the change at
    right angles to the original's direction u = y / |y|: cos = (|y| + a) / sqrt((|y| + a)^2 +
    |d_|^2) with a = u . d, and 1 / sqrt(1 + t) = 1 - t / 2 + O(t^2). So v = (I - u u^T) s /
    (sqrt(2) |y|) with random signs s has E[v v^T] = (I - u u^T) / (2 |y|^2), a projection being
    its own square.
    """

    name: ClassVar[str] = "cosine"

    def check(self, original: Tensor, batch: Batch) -> str | None:
        """Refuses samples whose output is zero."""
        return silent_sample(original, batch)

    def errors(self, changed: Tensor, original: Tensor, batch: Batch) -> Tensor:
        """See `Distance.errors`."""
        ours, seen = rows(changed, batch)
        theirs, _ = rows(original, batch)
        found = [
            _angle(a[counts].double().flatten(), b[counts].double().flatten())
            for a, b, counts in zip(ours, theirs, seen, strict=True)
        ]
        return torch.stack(found)

    def probe(self, original: Tensor, batch: Batch, signs: Tensor) -> Tensor:
        """See `Distance.probe`; the mean over the batch's samples is one more factor."""
        values, seen = rows(original, batch)
        drawn, _ = rows(signs, batch)
        found = torch.zeros(values.shape, dtype=torch.promote_types(values.dtype, torch.float32))
        for own, value, sign, counts in zip(found, values, drawn, seen, strict=True):
            y, s = value[counts].double(), sign[counts].double()
            size = torch.linalg.vector_norm(y).clamp_min(torch.finfo(torch.float64).tiny)
            u = y / size
            across = (s - u * (u * s).sum()) / size
            own[counts] = (across / math.sqrt(2 * len(values))).to(found.dtype)
        return found.reshape(original.shape)


def _angle(changed: Tensor, original: Tensor) -> Tensor:
    """1 - cos as half the squared distance of the directions, which loses no digits near 0."""
    if changed.numel() == 0:
        return changed.new_zeros(())
    size: Tensor = torch.linalg.vector_norm(changed)
    if not bool(size != 0):
        return changed.new_ones(())
    apart: Tensor = changed / size - original / torch.linalg.vector_norm(original)
    return apart.square().sum() / 2
