"""InputRange: the activations that a static quantizer can represent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from mixq.activations.fake import input_steps
from mixq.errors import CalibrationError


@dataclass(frozen=True, slots=True)
class InputRange:
    """A range low..high of activations that holds zero, in the units of the activations.

    Zero is always on the grid exactly, so that padding, which comes after quantization or before
    it, stays what it is.

    Raises:
        CalibrationError: if an end is not finite, zero lies outside, or float32 cannot hold the
            width.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        finite = math.isfinite(self.low) and math.isfinite(self.high)
        if not finite or self.high - self.low > torch.finfo(torch.float32).max:
            raise CalibrationError(
                f"an input range is {self.low:g} to {self.high:g}, but both ends and the width "
                "must be finite in float32; choose dynamic activations or none for this unit"
            )
        if not self.low <= 0 <= self.high:
            raise CalibrationError(
                f"an input range is {self.low:g} to {self.high:g}, but it must hold zero; "
                "stretch it with InputRange.covering"
            )

    @classmethod
    def covering(cls, low: float, high: float) -> Self:
        """The smallest range that holds low..high and zero."""
        return cls(min(low, 0.0), max(high, 0.0))

    def steps(self) -> tuple[Tensor, Tensor]:
        """Scale (float32) and zero point (uint8), each of shape (1,), as they are stored."""
        scale, zero = input_steps(torch.tensor([self.low]), torch.tensor([self.high]))
        return scale, zero.to(torch.uint8)

    def tensors(self) -> dict[str, Tensor]:
        """What is stored of it: `input_scale` and `input_zero`, five bytes in all."""
        scale, zero = self.steps()
        return {"input_scale": scale, "input_zero": zero}
