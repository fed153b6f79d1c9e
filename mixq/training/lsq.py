"""Fake quantization with gradients for steps and weights.

The forward pass gives exactly the weights that would be stored; the backward pass treats rounding
as the identity, which makes the step a trained number:

    w = (c - z) s + m,  c = clamp(round(v), low, high),  v = (u - m) / s + z
    dw/ds = c - v inside the range, c - z outside
    dw/dm = 0 inside, 1 outside
    dw/du = 1 inside, 0 outside

with u the weight before rounding, z the code of zero (m = 0 but on the affine grid). Float16 is
what scales and minimums are stored in; rounding to it is the identity for gradients as well.

Source: Esser et al., "Learned Step Size Quantization", ICLR 2020, equations 1 to 3 and section 2.2
(gradient scale); Bhalgat et al., "LSQ+: Improving low-bit quantization through learnable offsets
and better initialization", CVPR workshops 2020, equations 4 and 5 (minimum).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from mixq.formats import Format
from mixq.quantize.codes import SCALE_DTYPE, Steps, code_range, from_groups, values

_LARGEST = torch.finfo(SCALE_DTYPE).max
_NORMAL = torch.finfo(SCALE_DTYPE).smallest_normal


@dataclass(frozen=True, slots=True)
class Start:
    """Where the training of a (rows, columns) matrix starts, and what stays fixed.

    Attributes:
        fmt: an integer format.
        columns: of the matrix.
        shape: of the parameter.
        steps: scales and minimums to start from; zero points, which stay.
    """

    fmt: Format
    columns: int
    shape: tuple[int, ...]
    steps: Steps

    @property
    def scales(self) -> Tensor:
        """Scales at the start, float32 of shape (rows, groups)."""
        return self.steps.scales.to(torch.float32)

    @property
    def zeros(self) -> Tensor | float:
        """The code of zero: a number, or float32 of shape (rows, groups, 1)."""
        if self.fmt.grid == "affine":
            return 0.0
        if self.steps.zeros is not None:
            return self.steps.zeros.to(torch.float32)[..., None]
        return float(1 << (self.fmt.bits - 1))

    def stored(self, factors: Tensor, shifts: Tensor | None) -> Steps:
        """Steps as they are stored, with scales `factors` times those of the start.

        No scale becomes zero, infinite, of another sign, or so small that float16 spaces its
        neighbours widely, unless it started so.

        Args:
            factors: positive, of shape (rows, groups).
            shifts: what minimums moved by, in scales of the start; on the affine grid only.
        """
        start = self.scales
        least = start.abs().clamp(max=_NORMAL)
        size = (start.abs() * factors).clamp(min=least).clamp(max=_LARGEST)
        minimums = None
        if self.steps.minimums is not None and shifts is not None:
            moved = self.steps.minimums.to(torch.float32) + start * shifts
            minimums = moved.clamp(-_LARGEST, _LARGEST).to(SCALE_DTYPE)
        return Steps(torch.copysign(size, start).to(SCALE_DTYPE), self.steps.zeros, minimums)

    def positions(self, latent: Tensor, steps: Steps) -> Tensor:
        """Where weights lie among the codes, shape (rows, groups, size).

        Args:
            latent: weights as distances from zero, or from the minimum of the start, in scales of
                the start: a minimum far from zero costs no digits.
            steps: scales and minimums now.
        """
        scales = steps.scales.to(torch.float32)
        offset = torch.as_tensor(self.zeros, dtype=torch.float32)
        if steps.minimums is not None and self.steps.minimums is not None:
            moved = steps.minimums.to(torch.float32) - self.steps.minimums.to(torch.float32)
            offset = offset - (moved / scales)[..., None]
        return torch.addcmul(offset, latent, (self.scales / scales)[..., None])

    def codes(self, latent: Tensor, steps: Steps) -> Tensor:
        """The codes, as floats of shape (rows, groups, size), that `latent` rounds to."""
        return self.positions(latent, steps).round_().clamp_(*code_range(self.fmt))


def gradient_scales(fmt: Format, columns: int) -> Tensor:
    """What the gradients of each group's scale and minimum are multiplied by, shape (groups,).

    1 / sqrt(N Q_P), with N the weights of the group and Q_P the largest code counted from the code
    of zero, or from the lowest one where zero has none fixed. It brings the updates of steps,
    relative to their size, to those of weights.

    Source: Esser et al., section 2.2.
    """
    size = columns if fmt.group_size is None else fmt.group_size
    groups = fmt.groups_per_row(columns)
    counts = [min(size, columns - group * size) for group in range(groups)]
    high = code_range(fmt)[1]
    largest = high if fmt.grid in ("zero-point", "affine") else high - (1 << (fmt.bits - 1))
    return torch.tensor([1 / math.sqrt(count * largest) for count in counts])


def fake_quantized(latent: Tensor, factors: Tensor, shifts: Tensor | None, start: Start) -> Tensor:
    """The float32 parameter that would be stored, differentiable in all it is given.

    Args:
        latent: as `Start.positions` takes it.
        factors: as `Start.stored` takes them.
        shifts: likewise.
        start: of the matrix.
    """
    call = _FakeQuantize.apply
    weights: Tensor = call(latent, factors, shifts, start)  # type: ignore[no-untyped-call]
    return weights


class _FakeQuantize(Function):
    @staticmethod
    def forward(
        ctx: Any, latent: Tensor, factors: Tensor, shifts: Tensor | None, start: Start
    ) -> Tensor:
        steps = start.stored(factors, shifts)
        ctx.save_for_backward(latent)
        ctx.start, ctx.steps = start, steps
        grouped = values(start.codes(latent, steps), steps, start.fmt)
        return from_groups(grouped, start.columns).view(start.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (latent,) = ctx.saved_tensors
        start: Start = ctx.start
        low, high = code_range(start.fmt)
        grad = _grouped(grads[0].to_dense().reshape(-1, start.columns), latent.shape)
        position = start.positions(latent, ctx.steps)
        code = position.round().clamp_(low, high)
        inside = (position > low) & (position < high)
        by_latent = by_factor = by_shift = None
        scale = start.scales
        if ctx.needs_input_grad[0]:
            by_latent = torch.where(inside, grad, 0.0) * scale[..., None]
        relative = gradient_scales(start.fmt, start.columns).to(scale.device) * scale
        if ctx.needs_input_grad[1]:
            slope = code - torch.where(inside, position, start.zeros)
            by_factor = (grad * slope).sum(2) * relative
        if ctx.needs_input_grad[2]:
            by_shift = torch.where(inside, 0.0, grad).sum(2) * relative
        return by_latent, by_factor, by_shift, None


def _grouped(grad: Tensor, shape: torch.Size) -> Tensor:
    """A gradient of shape (rows, columns) as (rows, groups, size), zero where filled up."""
    missing = shape[1] * shape[2] - grad.shape[1]
    return torch.nn.functional.pad(grad, (0, missing)).view(shape)
