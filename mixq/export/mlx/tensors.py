"""Tensors of torch as arrays of mlx and back, bit by bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixq.export.mlx.library import core


def to_mlx(tensor: Tensor) -> Any:
    """An mlx array of the same dtype and bits."""
    mx = core()
    plain = tensor.detach().contiguous()
    if plain.dtype == torch.bfloat16:  # which numpy lacks
        return mx.array(plain.view(torch.int16).numpy()).view(mx.bfloat16)
    return mx.array(plain.numpy())


def from_mlx(array: Any) -> Tensor:
    """A tensor of the same dtype and bits."""
    mx = core()
    if array.dtype == mx.bfloat16:
        return torch.from_numpy(np.array(array.view(mx.int16))).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))
