"""A small network with a unit of every kind, and what calibration tells of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from mixq.activations.ranges import collect_ranges
from mixq.calibration import Calibration
from mixq.graph.find import find_units
from mixq.graph.units import WeightUnit
from mixq.moments.collect import collect
from mixq.moments.moments import Moments


class Net(nn.Module):
    """Convolutions, linear layers, a tied table and a raw parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(40, 24)
        self.conv = nn.Conv1d(24, 32, 3, padding=1)
        self.depthwise = nn.Conv1d(32, 32, 3, padding=1, groups=32)
        self.recurrent = nn.GRU(32, 24, batch_first=True)
        self.mix = nn.Parameter(torch.randn(24, 24) / 5)
        self.hidden = nn.Linear(24, 24)
        self.tied = nn.Linear(24, 40, bias=False)
        self.tied.weight = self.table.weight
        self.head = nn.Linear(40, 6)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens).transpose(1, 2)
        x = self.depthwise(self.conv(x).relu()).relu().transpose(1, 2)
        x = self.recurrent(x)[0] @ self.mix
        y: Tensor = self.head(self.tied(self.hidden(x).relu()).relu()).mean(1)
        return y


@dataclass(frozen=True)
class Known:
    """The network, its units, and what calibration tells of them."""

    model: nn.Module
    units: dict[str, WeightUnit]
    calibration: Calibration
    moments: dict[str, Moments]
    ranges: dict[str, dict[str, Tensor]]


def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def tokens(samples: int, seed: int = 1) -> Tensor:
    return torch.randint(0, 40, (samples, 7), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(name="tokens")
def tokens_fixture() -> Callable[..., Tensor]:
    return tokens


@pytest.fixture
def fresh() -> nn.Module:
    """A network of its own, with the same numbers."""
    return net()


@pytest.fixture(scope="session")
def known() -> Known:
    model, calibration = net(), Calibration.of(tokens(24))
    units = {unit.name: unit for unit in find_units(model)}
    ranges = collect_ranges(model, calibration, units.values())
    return Known(
        model,
        units,
        calibration,
        collect(model, calibration, units.values()),
        {name: found.tensors() for name, found in ranges.items()},
    )
