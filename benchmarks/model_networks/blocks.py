"""Pieces of which the networks here are made."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf


def cbr(
    i: int,
    o: int,
    k: int | tuple[int, int] = 1,
    s: int = 1,
    p: int | tuple[int, int] | None = None,
    g: int = 1,
    act: bool = True,
) -> nn.Module:
    """Convolution, batch norm, ReLU."""
    pad = p if p is not None else (k // 2 if isinstance(k, int) else (k[0] // 2, k[1] // 2))
    layers: list[nn.Module] = [nn.Conv2d(i, o, k, s, pad, groups=g, bias=False), nn.BatchNorm2d(o)]
    return nn.Sequential(*layers, *([nn.ReLU()] if act else []))


def depthwise(i: int, o: int, s: int = 1) -> nn.Module:
    """A depthwise separable convolution of MobileNet v1."""
    return nn.Sequential(cbr(i, i, 3, s, g=i), cbr(i, o))


class Residual(nn.Module):
    """x + body(x), with a shortcut where shapes differ."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return nnf.relu(self.shortcut(x) + self.body(x))


class Branches(nn.Module):
    """The branches' outputs side by side."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Outputs(nn.Module):
    """Stages one after the other; every stage's head reads its output."""

    def __init__(self, stages: list[nn.Module], heads: list[list[nn.Module]]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.heads = nn.ModuleList([nn.ModuleList(head) for head in heads])

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for stage, heads in zip(self.stages, self.heads, strict=True):
            x = stage(x)
            outputs += [head(x) for head in heads]
        return outputs


def fc(*sizes: int) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Flatten()]
    for i, o in pairwise(sizes):
        layers += [nn.Linear(i, o), nn.ReLU()]
    return layers[:-1]


class LRN(nn.Module):
    """Local response normalization across channels: a window's squares, a power, a product;
    counted as four norms."""

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(4):
            x = x.softmax(1)
        return x


def bottleneck_v1(i: int, width: int, s: int, expansion: int = 4) -> nn.Module:
    o = width * expansion
    body = nn.Sequential(cbr(i, width, 1, s), cbr(width, width, 3), cbr(width, o, act=False))
    return Residual(body, cbr(i, o, 1, s, act=False) if s != 1 or i != o else None)


def stages_v1(
    counts: tuple[int, ...], widths: tuple[int, ...] = (64, 128, 256, 512), first: int = 64
) -> list[nn.Module]:
    made, i = [], first
    for index, (count, width) in enumerate(zip(counts, widths, strict=True)):
        blocks = []
        for block in range(count):
            blocks.append(bottleneck_v1(i, width, 2 if block == 0 and index else 1))
            i = width * 4
        made.append(nn.Sequential(*blocks))
    return made


def stem() -> nn.Module:
    return nn.Sequential(cbr(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1))


def mobilenet_v1(top: bool = True) -> list[nn.Module]:
    sizes = [
        (32, 64, 1),
        (64, 128, 2),
        (128, 128, 1),
        (128, 256, 2),
        (256, 256, 1),
        (256, 512, 2),
        *[(512, 512, 1)] * 5,
    ]
    layers = [cbr(3, 32, 3, 2), *(depthwise(*each) for each in sizes)]
    last = [depthwise(512, 1024, 2), depthwise(1024, 1024)]
    return [*layers, *last, nn.AdaptiveAvgPool2d(1), *fc(1024, 1000)] if top else layers
