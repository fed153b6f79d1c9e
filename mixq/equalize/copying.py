"""Copies of a model, which is somebody else's and stays as it is."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn


def copied(model: nn.Module) -> nn.Module:
    """A deep copy of `model`.

    Weights that a hook computes, as the old `torch.nn.utils.weight_norm` does, are copied as
    numbers: torch refuses to copy their history.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in (*module.__dict__.values(), *module._buffers.values()):
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(model, memo)
