"""DigitsNet: the network of the demo, one layer of every common kind."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Self

import torch
from torch import Tensor, nn

WEIGHTS: Final = Path(__file__).with_name("digits_model.safetensors")
"""Trained by examples/train_demo.py."""


class DigitsNet(nn.Module):
    """Classifies 8x8 grey images: convolutions, then one attention block, then linear layers.

    The layers differ on purpose: a stem of 288 weights that every pixel passes, a depthwise
    convolution with 9 weights per channel, a position table that is a raw parameter, the stacked
    `in_proj_weight` of nn.MultiheadAttention, and a wide layer that holds two fifths of all
    weights and needs the fewest bits. Matrices hold 98.9% of the bytes, so that 8x compression
    is within reach of 4 and 2 bits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 32, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(32)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(32)
        self.pointwise = nn.Conv2d(32, 64, 1, bias=False)
        self.pointwise_norm = nn.BatchNorm2d(64)
        self.reduce = nn.Conv2d(64, 64, 3, stride=2, padding=1, bias=False)
        self.reduce_norm = nn.BatchNorm2d(64)
        self.position = nn.Parameter(torch.empty(16, 64))
        self.attention_norm = nn.LayerNorm(64)
        self.attention = nn.MultiheadAttention(64, 4, batch_first=True)
        self.mlp_norm = nn.LayerNorm(64)
        self.mlp_up = nn.Linear(64, 256)
        self.mlp_down = nn.Linear(256, 64)
        self.wide = nn.Linear(16 * 64, 64)
        self.classifier = nn.Linear(64, 10)
        nn.init.normal_(self.position, std=0.02)

    @classmethod
    def uninitialized(cls) -> Self:
        """The network without weights, drawing no random numbers; load a state dict into it."""
        with torch.device("meta"):
            return cls()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, 10) of images (batch, 1, 8, 8) with values in 0..1."""
        x = torch.relu(self.stem_norm(self.stem(images)))
        x = torch.relu(self.depthwise_norm(self.depthwise(x)))
        x = torch.relu(self.pointwise_norm(self.pointwise(x)))
        x = torch.relu(self.reduce_norm(self.reduce(x)))
        tokens = x.flatten(2).transpose(1, 2) + self.position  # (batch, 16, 64)
        normed = self.attention_norm(tokens)
        tokens = tokens + self.attention(normed, normed, normed, need_weights=False)[0]
        tokens = tokens + self.mlp_down(nn.functional.gelu(self.mlp_up(self.mlp_norm(tokens))))
        hidden: Tensor = nn.functional.gelu(self.wide(tokens.flatten(1)))
        logits: Tensor = self.classifier(hidden)
        return logits
