"""The search that tests/test_determinism.py makes under every circumstance; a program too.

    python tests/determinism_case.py FOLDER

writes FOLDER/plan.json and the weights beside it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

import mixq
from mixq import SearchResult


class Net(nn.Module):
    """A convolution with a batch norm, products that mix positions, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.mix = nn.Linear(36, 36, bias=False)
        self.up = nn.Linear(288, 48)
        self.head = nn.Linear(48, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(samples, 1, 8, 8) to (samples, 6)."""
        planes = self.stem(x).flatten(2)
        weights = (self.mix(planes) @ planes.transpose(1, 2) / 6).softmax(-1)
        return self.head(self.up((weights @ planes).flatten(1)).relu())


def case() -> tuple[nn.Module, torch.Tensor]:
    """The model and its calibration inputs, from a generator of their own."""
    generator = torch.Generator().manual_seed(11)
    model = Net().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            scale = parameter[0].numel() ** -0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model, torch.randn(40, 1, 8, 8, generator=generator)


def found(**changes: Any) -> SearchResult:
    """The search; `changes` go before its own arguments."""
    model, inputs = case()
    asked: dict[str, Any] = {"hardware": "intel_cpu", "target_compression": 5.5, "trials": 3}
    return mixq.search(model, inputs, **{**asked, **changes})


def files(folder: Path, result: SearchResult | None = None) -> dict[str, bytes]:
    """plan.json and its weights, written to a new folder and read back as bytes."""
    if result is not None:
        folder.mkdir()
        result.plan.save(folder / "plan.json")
    return {path.name: path.read_bytes() for path in sorted(folder.glob("plan.*"))}


if __name__ == "__main__":
    files(Path(sys.argv[1]), found())
