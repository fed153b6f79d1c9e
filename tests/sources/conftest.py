"""Tiny models that the tests of this folder load."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

torch.set_num_threads(1)


class Small(nn.Module):
    """A convolution, a norm, dropout and a linear layer: what an export must keep apart."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.5)
        self.linear = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(self.norm(self.conv(x)).relu())
        flat = hidden.reshape(hidden.shape[0], -1)
        return torch.nn.functional.linear(flat, self.linear.weight, self.linear.bias)


class _Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.fixture(scope="session")
def trap() -> Callable[[Path], bytes]:
    """Makes a pickle that creates the named file when it is loaded."""
    return lambda path: pickle.dumps(_Trap(path))


@pytest.fixture(scope="session")
def small() -> Small:
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture(scope="session")
def images() -> Tensor:
    return torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def exported(small: Small, images: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`small` as torch.export.save writes it, for any batch size."""
    path = tmp_path_factory.mktemp("exported") / "small.pt2"
    program = torch.export.export(
        small, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},)
    )
    torch.export.save(program, path)
    return path
