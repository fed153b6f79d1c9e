"""Segmentation, speech, reading and pictures made larger."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from model_networks.blocks import cbr
from model_networks.libraries import torchvision


def duc() -> nn.Module:
    """ResNet101-DUC-HDC of the ONNX Model Zoo, 800x800: stride 8 with dilated last stages, 19 x
    16 outputs (cells of 2 pixels)."""
    body = torchvision.models.resnet101(replace_stride_with_dilation=[False, True, True])
    features = nn.Sequential(
        body.conv1,
        body.bn1,
        body.relu,
        body.maxpool,
        body.layer1,
        body.layer2,
        body.layer3,
        body.layer4,
    )

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rates = nn.ModuleList([nn.Conv2d(2048, 304, 3, 1, r, r) for r in (6, 12, 18, 24)])

        def forward(self, x: Tensor) -> Tensor:
            return nnf.pixel_shuffle(sum(conv(x) for conv in self.rates), 4).softmax(1)

    return nn.Sequential(features, Head())


def unet() -> nn.Module:
    """Ronneberger et al. 2015, padded, 3 -> 2 classes, 256x256."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            two = lambda i, o: nn.Sequential(cbr(i, o, 3), cbr(o, o, 3))  # noqa: E731
            sizes = (64, 128, 256, 512, 1024)
            self.down = nn.ModuleList(
                [two(i, o) for i, o in zip((3, *sizes[:-1]), sizes, strict=True)]
            )
            self.ups = nn.ModuleList([nn.ConvTranspose2d(o, o // 2, 2, 2) for o in sizes[:0:-1]])
            self.join = nn.ModuleList([two(o, o // 2) for o in sizes[:0:-1]])
            self.last = nn.Conv2d(64, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            kept = []
            for index, down in enumerate(self.down):
                x = down(nnf.max_pool2d(x, 2) if index else x)
                kept.append(x)
            for up, join, side in zip(self.ups, self.join, kept[-2::-1], strict=True):
                x = join(torch.cat([up(x), side], 1))
            return self.last(x)

    return Model()


class Speech(nn.Module):
    """RNN-T of MLPerf: 2 and 3 LSTM layers of 1024 with time halved between, on 250 frames (7.5
    s) of 240; no decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = (
            nn.LSTM(240, 1024, 2, batch_first=True),
            nn.LSTM(2048, 1024, 3, batch_first=True),
        )
        self.joint = nn.Sequential(nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 29))

    def forward(self, x: Tensor) -> Tensor:
        y = self.low(x)[0]
        return self.joint(self.high(y.reshape(1, y.shape[1] // 2, 2048))[0])


class Reading(nn.Module):
    """BiDAF (Seo et al. 2017) from its word vectors on, 60 words: contextual, two modelling and
    one output biLSTM of 100."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTM(100, 100, bidirectional=True, batch_first=True)
        self.model = nn.LSTM(800, 100, 2, bidirectional=True, batch_first=True)
        self.last = nn.LSTM(1400, 100, bidirectional=True, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)[0]
        h = h + (h @ h.transpose(1, 2)).softmax(-1) @ h
        g = torch.cat([h] * 4, 2)
        m = self.model(g)[0]
        return self.last(torch.cat([g, m, m, m], 2))[0]


def super_resolution() -> nn.Module:
    """super_resolution of PyTorch's examples and the ONNX Model Zoo (factor 3, 224x224 grey)."""
    return nn.Sequential(
        nn.Conv2d(1, 64, 5, 1, 2),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, 1, 1),
        nn.ReLU(),
        nn.Conv2d(64, 32, 3, 1, 1),
        nn.ReLU(),
        nn.Conv2d(32, 9, 3, 1, 1),
        nn.PixelShuffle(3),
    )
