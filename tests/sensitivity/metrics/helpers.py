"""Outputs, batches and all metrics that the tests of this folder share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from mixq.batch import Batch
from mixq.sensitivity.metrics.metric import Distance
from mixq.sensitivity.metrics.resolve import DISTANCES

METRICS: dict[str, Distance] = {name: kind() for name, kind in DISTANCES.items()}


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def masked(mask: Tensor) -> Batch:
    return {"input_ids": torch.zeros_like(mask), "attention_mask": mask}


def all_signs(*shape: int) -> Iterator[Tensor]:
    count = torch.Size(shape).numel()
    for signs in itertools.product((-1.0, 1.0), repeat=count):
        yield torch.tensor(signs, dtype=torch.float64).reshape(shape)
