"""Cross-layer equalization: the ranges of weights on both sides of a channel made equal.

Source: Nagel, van Baalen, Blankevoort, Welling, "Data-Free Quantization Through Weight
Equalization and Bias Correction", ICCV 2019, section 4.1: s_i = sqrt(r1_i r2_i) / r2_i, where
r1_i and r2_i are the largest magnitudes of the weights that make and that read channel i, over all
pairs in turn until nothing moves. There W1 is divided by s and W2 multiplied by it, and both
ranges become sqrt(r1_i r2_i).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from mixq.equalize.links import Link
from mixq.equalize.scaling import Scaling

SWEEPS: Final = 50
"""Most rounds over all pairs; a chain of 50 pairs moves by less than 1% from then on."""
SETTLED: Final = 0.01
"""Largest change of a logarithm of a factor at which the rounds end."""
MOST: Final = 1e4
"""Largest factor, and the inverse of the smallest: a channel this far off is as good as dead, and
its bias would only grow."""


def equalize_ranges(model: nn.Module, links: Sequence[Link]) -> list[Scaling]:
    """Scalings that equalize the ranges of weights along `links` between products."""
    pairs = [link for link in links if link.producer.kind in ("linear", "convolution")]
    names = {part.name for link in pairs for part in (*link.producing(), *link.consuming())}
    weights = {name: model.get_parameter(name).detach().cpu().clone() for name in sorted(names)}
    totals = [torch.ones(link.producer.channels, dtype=torch.float64) for link in pairs]
    for _ in range(SWEEPS):
        moved = 0.0
        for link, total in zip(pairs, totals, strict=True):
            factor = balance(link, weights)
            factor = (total * factor).clamp(1 / MOST, MOST) / total
            link.scaling("cross-layer", factor).scale(weights)
            total *= factor
            moved = max(moved, float(factor.log().abs().max()))
        if moved < SETTLED:
            break
    return [link.scaling("cross-layer", total) for link, total in zip(pairs, totals, strict=True)]


def balance(link: Link, weights: dict[str, Tensor]) -> Tensor:
    """S = sqrt(r1 / r2), float64 of shape (channels,); 1 for channels of range 0 or not alive."""
    channels = link.producer.channels
    made = link.producing()[0].largest(weights[link.producing()[0].name], channels).double()
    read = torch.zeros(channels, dtype=torch.float64)
    for part in link.consuming():
        read = torch.maximum(read, part.largest(weights[part.name], channels).double())
    is_live = link.alive & (made > 0) & (read > 0)
    factor = torch.ones(channels, dtype=torch.float64)
    factor[is_live] = (made[is_live] / read[is_live]).sqrt()
    return factor
