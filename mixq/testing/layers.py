"""Layers: small models of kinds that an exporter takes or refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from mixq.batch import Batch


class Recurrent(nn.Module):
    """An LSTM, whose parameters no layer with one weight has."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(64, 32, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """States (batch, steps, 32)."""
        states: Tensor = self.lstm(x)[0]
        return states


@dataclass(frozen=True)
class Layer:
    """A model and one batch of its inputs."""

    build: Callable[[], nn.Module]
    inputs: Callable[[], Batch]


LAYERS: Final = {
    "embedding": Layer(
        lambda: nn.Sequential(nn.Embedding(40, 64), nn.Linear(64, 8)),
        lambda: torch.randint(0, 40, (2, 6)),
    ),
    "convolution": Layer(
        lambda: nn.Sequential(nn.Conv2d(16, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 8, 1)),
        lambda: torch.randn(2, 16, 6, 6),
    ),
    "recurrent": Layer(Recurrent, lambda: torch.randn(2, 5, 64)),
    "tied": Layer(lambda: tied(), lambda: torch.randint(0, 40, (2, 6))),
}


def chain(count: int) -> nn.Sequential:
    """So many linear layers, 64 to 128 and back, with tanh between them, in eval mode.

    None is square, so that a matrix and its transpose are told apart.
    """
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for index in range(count):
        linear = nn.Linear(64, 128) if index % 2 == 0 else nn.Linear(128, 64)
        with torch.no_grad():
            linear.weight *= 2  # else nothing of the input is left after ten layers
        layers += [linear, nn.Tanh()]
    return nn.Sequential(*layers[:-1]).eval()


def tied() -> nn.Sequential:
    """A head that shares the embedding's weights."""
    embedding, head = nn.Embedding(40, 64), nn.Linear(64, 40, bias=False)
    head.weight = embedding.weight
    return nn.Sequential(embedding, nn.Tanh(), head)
