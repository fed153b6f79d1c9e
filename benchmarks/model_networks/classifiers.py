"""Classifiers that neither torchvision nor timm has as published tables mean them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from model_networks.blocks import LRN, Branches, Residual, cbr, fc, stages_v1, stem


def caffe_alexnet() -> nn.Module:
    """bvlc_alexnet and bvlc_reference_caffenet, deploy.prototxt: two groups."""
    return nn.Sequential(
        nn.Conv2d(3, 96, 11, 4),
        nn.ReLU(),
        LRN(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(96, 256, 5, 1, 2, groups=2),
        nn.ReLU(),
        LRN(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(256, 384, 3, 1, 1),
        nn.ReLU(),
        nn.Conv2d(384, 384, 3, 1, 1, groups=2),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, 1, 1, groups=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.AdaptiveMaxPool2d(6),
        *fc(9216, 4096, 4096, 1000),
    )


def zfnet() -> nn.Module:
    """zfnet512 of the ONNX Model Zoo: conv3-5 have 512, 1024, 512 channels."""
    return nn.Sequential(
        nn.Conv2d(3, 96, 7, 2),
        nn.ReLU(),
        LRN(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Conv2d(96, 256, 5, 2),
        nn.ReLU(),
        LRN(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Conv2d(256, 512, 3, 1, 1),
        nn.ReLU(),
        nn.Conv2d(512, 1024, 3, 1, 1),
        nn.ReLU(),
        nn.Conv2d(1024, 512, 3, 1, 1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.AdaptiveMaxPool2d(6),
        *fc(18432, 4096, 4096, 1000),
    )


def inception(
    i: int, a: int, b0: int, b: int, c0: int, c: int, d: int, five: int = 5
) -> nn.Module:
    """A block of GoogLeNet; `five` is the third branch's window."""
    return Branches(
        cbr(i, a),
        nn.Sequential(cbr(i, b0), cbr(b0, b, 3)),
        nn.Sequential(cbr(i, c0), cbr(c0, c, five)),
        nn.Sequential(nn.MaxPool2d(3, 1, 1), cbr(i, d)),
    )


def googlenet(lrn: bool = True) -> nn.Module:
    """Szegedy et al. 2014, table 1 (torchvision's has 3x3 for 5x5); with LRN as in Caffe's
    bvlc_googlenet."""
    norm = LRN if lrn else nn.Identity
    pool = lambda: nn.MaxPool2d(3, 2, ceil_mode=True)  # noqa: E731
    return nn.Sequential(
        cbr(3, 64, 7, 2),
        pool(),
        norm(),
        cbr(64, 64),
        cbr(64, 192, 3),
        norm(),
        pool(),
        inception(192, 64, 96, 128, 16, 32, 32),
        inception(256, 128, 128, 192, 32, 96, 64),
        pool(),
        inception(480, 192, 96, 208, 16, 48, 64),
        inception(512, 160, 112, 224, 24, 64, 64),
        inception(512, 128, 128, 256, 24, 64, 64),
        inception(512, 112, 144, 288, 32, 64, 64),
        inception(528, 256, 160, 320, 32, 128, 128),
        pool(),
        inception(832, 256, 160, 320, 32, 128, 128),
        inception(832, 384, 192, 384, 48, 128, 128),
        nn.AdaptiveAvgPool2d(1),
        *fc(1024, 1000),
    )


def double(i: int, a: int, b0: int, b: int, c0: int, c: int, d: int) -> nn.Module:
    """A block of BN-Inception: the third branch has two 3x3."""
    return Branches(
        cbr(i, a),
        nn.Sequential(cbr(i, b0), cbr(b0, b, 3)),
        nn.Sequential(cbr(i, c0), cbr(c0, c, 3), cbr(c, c, 3)),
        nn.Sequential(nn.AvgPool2d(3, 1, 1), cbr(i, d)),
    )


def halving(i: int, b0: int, b: int, c0: int, c: int) -> nn.Module:
    return Branches(
        nn.Sequential(cbr(i, b0), cbr(b0, b, 3, 2)),
        nn.Sequential(cbr(i, c0), cbr(c0, c, 3), cbr(c, c, 3, 2)),
        nn.MaxPool2d(3, 2, 1),
    )


def inception_v2() -> nn.Module:
    """Ioffe and Szegedy 2015, as TF-Slim's inception_v2 (separable first convolution)."""
    return nn.Sequential(
        nn.Conv2d(3, 24, 7, 2, 3, groups=3, bias=False),
        cbr(24, 64),
        nn.MaxPool2d(3, 2, 1),
        cbr(64, 64),
        cbr(64, 192, 3),
        nn.MaxPool2d(3, 2, 1),
        double(192, 64, 64, 64, 64, 96, 32),
        double(256, 64, 64, 96, 64, 96, 64),
        halving(320, 128, 160, 64, 96),
        double(576, 224, 64, 96, 96, 128, 128),
        double(576, 192, 96, 128, 96, 128, 128),
        double(576, 160, 128, 160, 128, 160, 96),
        double(576, 96, 128, 192, 160, 192, 96),
        halving(576, 128, 192, 192, 256),
        double(1024, 352, 192, 320, 160, 224, 128),
        double(1024, 352, 192, 320, 192, 224, 128),
        nn.AdaptiveAvgPool2d(1),
        *fc(1024, 1000),
    )


def resnet_v1(*counts: int) -> nn.Module:
    """He et al. 2015: the stride in the first 1x1, not in the 3x3 (v1.5)."""
    return nn.Sequential(stem(), *stages_v1(counts), nn.AdaptiveAvgPool2d(1), *fc(2048, 1000))


class Shuffle(nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def shufflenet_v1() -> nn.Module:
    """Zhang et al. 2017, 1x with g = 3, as the ONNX Model Zoo's shufflenet."""
    layers: list[nn.Module] = [cbr(3, 24, 3, 2), nn.MaxPool2d(3, 2, 1)]
    i = 24
    for o, count in ((240, 4), (480, 8), (960, 4)):
        for block in range(count):
            s, w = (2 if block == 0 else 1), o - (i if block == 0 else 0)
            g = 1 if i == 24 else 3
            body = nn.Sequential(
                cbr(i, o // 4, g=g),
                Shuffle(3),
                cbr(o // 4, o // 4, 3, s, g=o // 4, act=False),
                cbr(o // 4, w, g=3, act=False),
            )
            layers.append(Branches(nn.AvgPool2d(3, 2, 1), body) if s == 2 else Residual(body))
            i = o
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), *fc(960, 1000))


class Dense(nn.Module):
    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, *(branch(x) for branch in self.branches)], 1)


def peleenet() -> nn.Module:
    """Wang et al. 2018, table 1: growth 32, blocks 3, 4, 8, 6, bottleneck widths 1, 2, 4, 4."""

    class Stem(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (
                cbr(3, 32, 3, 2),
                nn.Sequential(cbr(32, 16), cbr(16, 32, 3, 2)),
                cbr(64, 32),
            )

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.c(torch.cat([self.b(x), nnf.max_pool2d(x, 2)], 1))

    layers: list[nn.Module] = [Stem()]
    i = 32
    for index, (count, width) in enumerate(((3, 1), (4, 2), (8, 4), (6, 4))):
        inner = 16 * width
        for _ in range(count):
            layers.append(
                Dense(
                    nn.Sequential(cbr(i, inner), cbr(inner, 16, 3)),
                    nn.Sequential(cbr(i, inner), cbr(inner, 16, 3), cbr(16, 16, 3)),
                )
            )
            i += 32
        layers.append(cbr(i, i))
        if index < 3:
            layers.append(nn.AvgPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), *fc(i, 1000))


def arcface_r100() -> nn.Module:
    """LResNet100E-IR of InsightFace: stages 3, 13, 30, 3 of two 3x3 each at 112x112, embedding
    of 512."""
    layers: list[nn.Module] = [cbr(3, 64, 3)]
    i = 64
    for o, count in ((64, 3), (128, 13), (256, 30), (512, 3)):
        for block in range(count):
            s = 2 if block == 0 else 1
            body = nn.Sequential(
                nn.BatchNorm2d(i),
                nn.Conv2d(i, o, 3, 1, 1, bias=False),
                nn.BatchNorm2d(o),
                nn.PReLU(o),
                nn.Conv2d(o, o, 3, s, 1, bias=False),
                nn.BatchNorm2d(o),
            )
            layers.append(Residual(body, cbr(i, o, 1, s, act=False) if s != 1 or i != o else None))
            i = o
    return nn.Sequential(*layers, nn.BatchNorm2d(512), *fc(25088, 512))


def emotion_ferplus() -> nn.Module:
    """Barsoum et al. 2016, VGG13 on 64x64 grey images."""
    layers: list[nn.Module] = []
    i = 1
    for o, count in ((64, 2), (128, 2), (256, 3), (256, 3)):
        for _ in range(count):
            layers += [nn.Conv2d(i, o, 3, 1, 1), nn.ReLU()]
            i = o
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, *fc(4096, 1024, 1024, 8))
