"""Copies of a model, which is somebody else's and stays as it is."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn


def copied(model: nn.Module, shared: Iterable[Tensor] = ()) -> nn.Module:
    """A deep copy of `model` that shares the tensors in `shared`, which are about to be replaced.

    Sparing their copies keeps the peak memory low. Weights that a hook computes, as the old
    `torch.nn.utils.weight_norm` does, are copied as numbers: torch refuses to copy their history.
    """
    memo: dict[int, Any] = {id(tensor): tensor for tensor in shared}
    for module in model.modules():
        for value in (*module.__dict__.values(), *module._buffers.values()):
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    with warnings.catch_warnings():
        # torch's own: a program of torch.export holds what torch itself calls deprecated.
        warnings.simplefilter("ignore", FutureWarning)
        return copy.deepcopy(model, memo)
