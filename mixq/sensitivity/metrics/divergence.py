"""Divergence: how much less likely a changed model finds what the original says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Final, final

import torch
from torch import Tensor

from mixq.batch import Batch
from mixq.sensitivity.outputs import rows

NUMBERS_AT_ONCE: Final = 1 << 20
"""That are held in float64, five times over: 42 MB, where one text's logits may be 12 million."""
NEAR_ONE: Final = 1e-3
"""What the sum of probabilities may differ from 1 by."""


@final
class Divergence:
    """KL(p || q) = sum_i p_i (log p_i - log q_i) in nats, p the original's softmax, q the changed.

    Over the last dimension, and the mean of all positions that count. Computed in float64, since
    what is left of near-equal logarithms is small.

    To second order it is d^T (diag p - p p^T) d / 2 for a change d of the scores: the Hessian of
    log-sum-exp, whose gradient cancels. v = (sqrt(p) s - p (sqrt(p) . s)) / sqrt(2) with random
    signs s has E[v v^T] = (D - p r^T)(D - r p^T) / 2 with r = sqrt(p) and D = diag r; that is
    (diag p - 2 p p^T + p (r^T r) p^T) / 2, and r^T r = 1.

    Source: Kullback, Leibler, "On information and sufficiency", Annals of Mathematical Statistics
    22(1), 1951; as an error of quantized models: Dutta et al., "Accuracy is not all you need",
    NeurIPS 2024, arXiv:2407.09141.
    """

    name: ClassVar[str] = "kl"

    def check(self, original: Tensor, batch: Batch) -> str | None:
        """Refuses what cannot be scores: one number, feature maps, and finished probabilities."""
        if original.dim() not in (2, 3) or original.shape[-1] < 2:
            return (
                f"has shape {tuple(original.shape)}, but scores are (samples, classes) or "
                "(samples, tokens, classes), of two classes or more"
            )
        values, seen = rows(original, batch)
        scores = values[seen]
        sums = scores.sum(-1, dtype=torch.float64)
        if bool((scores >= 0).all()) and bool(((sums - 1).abs() <= NEAR_ONE).all()):
            return (
                "holds probabilities that add up to 1, but the divergence takes scores or logits"
            )
        return None

    def errors(self, changed: Tensor, original: Tensor, batch: Batch) -> Tensor:
        """See `Distance.errors`."""
        ours, seen = _scores(changed, batch)
        theirs, _ = _scores(original, batch)
        found = torch.zeros(seen.shape, dtype=torch.float64)
        for sample, positions in _parts(ours):
            q = ours[sample, positions].double().log_softmax(-1)
            p = theirs[sample, positions].double().log_softmax(-1)
            found[sample, positions] = (p.exp() * (p - q)).sum(-1)
        # Rounding may leave less than nothing. Not a product: what is hidden may be NaN.
        kept = torch.where(seen, found.clamp_min(0), torch.zeros_like(found))
        return kept.sum(1) / seen.sum(1).clamp_min(1)

    def probe(self, original: Tensor, batch: Batch, signs: Tensor) -> Tensor:
        """See `Distance.probe`; the mean over positions and samples is one more factor."""
        values, seen = _scores(original, batch)
        drawn = signs.reshape(values.shape)
        found = torch.zeros(values.shape, dtype=torch.promote_types(values.dtype, torch.float32))
        each = (seen.sum(1).clamp_min(1) * (2 * len(values))).double().sqrt()
        for sample, positions in _parts(values):
            p = values[sample, positions].double().softmax(-1)
            s = p.sqrt() * drawn[sample, positions]
            v = (s - p * s.sum(-1, keepdim=True)) / each[sample]
            hidden = ~seen[sample, positions].unsqueeze(-1)
            found[sample, positions] = v.masked_fill(hidden, 0).to(found.dtype)
        return found.reshape(original.shape)


def _scores(output: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Scores of shape (samples, positions, classes), and which positions count.

    One score per token is a distribution over the tokens that are seen.
    """
    values, seen = rows(output, batch)
    if values.shape[2] > 1:
        return values, seen
    never = torch.finfo(values.dtype).min
    return values.masked_fill(~seen.unsqueeze(2), never).mT, seen.any(1, keepdim=True)


def _parts(values: Tensor) -> Iterator[tuple[int, slice]]:
    """The rows of each sample, so many at once that they fit."""
    step = max(1, NUMBERS_AT_ONCE // values.shape[2])
    for sample in range(values.shape[0]):
        for low in range(0, values.shape[1], step):
            yield sample, slice(low, low + step)
