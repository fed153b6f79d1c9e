"""What the tests of this folder share: small models, their numbers, and a coarse format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Run(nn.Module):
    """Named modules, and what to do with them."""

    def __init__(self, forward: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self.run = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def chain(**modules: nn.Module) -> Run:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        for module in m.children():
            x = module(x)
        return x

    return Run(forward, **modules)


def ready(model: nn.Module) -> nn.Module:
    """Random weights and statistics, in double precision: what is legal is equal to 1e-12."""
    random = torch.Generator().manual_seed(0)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point():
            with torch.no_grad():
                tensor.copy_(torch.randn(tensor.shape, generator=random))
                if name.endswith("running_var"):
                    tensor.abs_()
    return model.double().eval()


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def four_bits(weight: Tensor, rows: int, columns: int) -> Tensor:
    """Rounded to 15 steps per row."""
    matrix = weight.reshape(rows, columns)
    step = matrix.abs().amax(1, keepdim=True).clamp(min=1e-30) / 7
    return ((matrix / step).round() * step).reshape(weight.shape)
