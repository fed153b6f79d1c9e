"""What the tests of this folder share: inputs, small models, and what moments must be."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mixq.calibration import Calibration
from mixq.graph.find import find_units
from mixq.moments.collect import collect
from mixq.moments.moments import Moments


class Functional(nn.Module):
    """A raw parameter and what is done with it."""

    def __init__(self, weight: Tensor, run: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, self.weight)


class Tied(nn.Module):
    """A language model's table, looked up and used as the head."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(self.table(ids).sin())
        return logits


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def moments_of(model: nn.Module, data: object, **options: object) -> dict[str, Moments]:
    return collect(model, Calibration.of(data), find_units(model), **options)  # type: ignore[arg-type]


def check(moments: Moments, *groups: Tensor) -> None:
    """The moments are those of the vectors (positions, columns) of each group."""
    assert moments.groups == len(groups)
    assert moments.counts.tolist() == [len(x) for x in groups]
    assert moments.count == min(map(len, groups))
    for index, x in enumerate(groups):
        wide, positions = x.double(), max(len(x), 1)
        size = wide.square().sum(0) / positions
        # Of a sum of `positions` float32 products, relative to the sizes of their factors.
        slack = (positions + 8) * 2.0**-24
        allowed = slack * torch.outer(size.sqrt(), size.sqrt()) + 1e-30
        assert moments.second is not None
        assert moments.second.dtype == moments.mean.dtype == torch.float32
        difference = moments.second[index].double() - wide.mT @ wide / positions
        assert bool((difference.abs() <= allowed).all())
        assert torch.equal(moments.diagonal[index], moments.second[index].diagonal())
        assert torch.equal(moments.second[index], moments.second[index].mT)
        difference = moments.mean[index].double() - wide.sum(0) / positions
        assert bool((difference.abs() <= slack * size.sqrt() + 1e-30).all())


def check_near(moments: Moments, x: Tensor) -> None:
    """As `check`, for inputs that were themselves computed in another order."""
    assert moments.count == len(x)
    assert moments.second is not None
    assert torch.allclose(moments.second[0], x.t() @ x / len(x), rtol=1e-4, atol=1e-5)
    assert torch.allclose(moments.mean[0], x.mean(0), rtol=1e-4, atol=1e-5)
