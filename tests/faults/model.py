"""A tiny model with calibration data, as a user's own file; every command here runs on it."""

from __future__ import annotations

from typing import Final

MODEL: Final = """
import torch
from torch import nn


def load():
    generator = torch.Generator().manual_seed(0)
    layers = []
    sizes = (32, 48, 32, 8)
    for inputs, outputs in zip(sizes, sizes[1:]):
        layer = nn.Linear(inputs, outputs)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(outputs, inputs, generator=generator) / inputs**0.5)
            layer.bias.zero_()
        layers += [layer, nn.ReLU()]
    inputs = torch.randn(12, 32, generator=torch.Generator().manual_seed(1))
    return nn.Sequential(*layers[:-1]), list(torch.split(inputs, 3))
"""
