"""Recorded outputs as a network, so that what was run elsewhere is measured by the same code."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Recorded(nn.Module):
    """Answers each of the inputs that it knows with the output that was recorded for it.

    Args:
        inputs: shape (samples, ...).
        outputs: in the same order, shape (samples, ...).
    """

    def __init__(self, inputs: Tensor, outputs: Tensor) -> None:
        super().__init__()
        self.register_buffer("inputs", inputs)
        self.register_buffer("outputs", outputs)

    def forward(self, input: Tensor) -> Tensor:
        places = [self._place(sample) for sample in input]
        return self.outputs[places]

    def _place(self, sample: Tensor) -> int:
        for place, known in enumerate(self.inputs):
            if torch.equal(known, sample):
                return place
        raise ValueError("an input is asked for whose output was not recorded")
