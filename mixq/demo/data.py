"""The digits of the demo: three disjoint splits and what is measured on one of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

DATA: Final = Path(__file__).with_name("digits.safetensors")
"""1,797 images in shuffled order; see ATTRIBUTION.md. Written by examples/train_demo.py."""

SPLITS: Final = {"train": 1097, "calibration": 200, "test": 500}
"""Images of each split, in the order of the file."""


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled images.

    Attributes:
        images: float32 (count, 1, 8, 8), values in 0..1.
        labels: int64 (count,), the digits 0..9.
    """

    images: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class Splits:
    """The three disjoint parts: the weights saw `train`, mixq sees `calibration`."""

    train: Split
    calibration: Split
    test: Split


def load_splits() -> Splits:
    """The packaged digits, always in the same splits."""
    stored = load_file(DATA)
    # Pixels are counts 0..16 of the black dots in a 4x4 block of the scanned bitmap.
    images = (stored["images"].float() / 16).unsqueeze(1)
    labels = stored["labels"].long()
    counts = list(SPLITS.values())
    parts = zip(torch.split(images, counts), torch.split(labels, counts), strict=True)
    return Splits(*(Split(*part) for part in parts))


@dataclass(frozen=True, eq=False)
class Evaluate:
    """Accuracy (share of right answers) and loss (mean cross-entropy [nat]) on a split.

    Attributes:
        primary: the metric that a budget on the task's metric means.
    """

    split: Split
    primary: ClassVar[str] = "accuracy"

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        """The metrics of `model`, run as it is: the caller has put it into eval mode."""
        logits = torch.cat([model(part) for part in torch.split(self.split.images, 100)])
        labels = self.split.labels
        return {
            "accuracy": (logits.argmax(1) == labels).float().mean().item(),
            "loss": nn.functional.cross_entropy(logits, labels).item(),
        }
