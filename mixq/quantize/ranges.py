"""Steps from the range of each group: the largest magnitude, or the least and largest weight.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-
Arithmetic-Only Inference", CVPR 2018, section 2 (zero-point); Krishnamoorthi, arXiv 1806.08342,
section 2 (symmetric); llama.cpp's Q4_0 and Q4_1 (signed, affine).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mixq.errors import FormatError
from mixq.formats import Format
from mixq.quantize.codes import SCALE_DTYPE, Steps, code_range

_LIMITS = torch.finfo(SCALE_DTYPE)
_SUBNORMAL_STEP = _LIMITS.smallest_normal * _LIMITS.eps


def range_steps(low: Tensor, high: Tensor, fmt: Format) -> Steps:
    """Steps that cover low..high, float32 tensors of shape (rows, groups).

    A symmetric or signed grid covers the larger magnitude of the two; the signed one gives the end
    that lies farther out the code that it has one more of. The zero-point grid covers zero as
    well, with zero exactly on it. Numbers are rounded to float16 *here*, before any code is
    chosen, so that codes are nearest on the stored grid.

    Raises:
        FormatError: if a scale or minimum does not fit into float16.
    """
    half = 1 << (fmt.bits - 1)
    if fmt.grid == "signed":
        outer = torch.where(high.abs() > low.abs(), high, low)
        return Steps(storable(outer / -half, fmt))
    if fmt.grid == "zero-point":
        low, high = low.clamp(max=0), high.clamp(min=0)
        scales = storable((high - low) / (2 * half - 1), fmt)
        zeros = (-low / scales.to(torch.float32)).round().clamp(0, 2 * half - 1)
        return Steps(scales, zeros=zeros.to(torch.uint8))
    if fmt.grid == "affine":
        minimums = _floor(low, fmt)
        span = (high - minimums.to(torch.float32)).clamp(min=0)
        return Steps(storable(span / (2 * half - 1), fmt), minimums=minimums)
    largest = code_range(fmt)[1] - half
    return Steps(storable(torch.maximum(high.abs(), low.abs()) / largest, fmt))


def storable(scales: Tensor, fmt: Format) -> Tensor:
    """`scales` in float16, as `rounded_scales` rounds them.

    Raises:
        FormatError: if one does not fit.
    """
    _check(scales.to(SCALE_DTYPE), scales, "scale", fmt)
    return rounded_scales(scales)


def rounded_scales(scales: Tensor) -> Tensor:
    """`scales` in float16, never zero: an all-zero group gets scale 1, one too large infinity.

    Below float16's smallest normal number its steps are coarse; there a scale is rounded away from
    zero, so that no weight lies far beyond the largest code and none is divided by zero.
    """
    stored = scales.to(SCALE_DTYPE)
    sign = torch.where(scales < 0, -1.0, 1.0).to(SCALE_DTYPE)
    size = stored.abs()
    coarse = (size < _LIMITS.smallest_normal) & (size.to(torch.float32) < scales.abs())
    size = torch.where(coarse, size + _SUBNORMAL_STEP, size)
    return torch.where(scales == 0, torch.ones_like(size), size * sign)


def storable_minimums(minimums: Tensor, fmt: Format) -> Tensor:
    """`minimums` in float16, to the nearest.

    Raises:
        FormatError: if one does not fit.
    """
    stored = minimums.to(SCALE_DTYPE)
    _check(stored, minimums, "minimum", fmt)
    return stored


def _floor(low: Tensor, fmt: Format) -> Tensor:
    """The largest float16 not above `low`, so that no weight lies below the first code."""
    stored = storable_minimums(low, fmt)
    above = stored.to(torch.float32) > low
    # float16 bit patterns are ordered; one step down is plus one for negatives, else minus one.
    bits = stored.view(torch.int16)
    below = torch.where(stored > 0, bits - 1, torch.where(stored == 0, -32767, bits + 1))
    floored = torch.where(above, below.to(torch.int16).view(SCALE_DTYPE), stored)
    _check(floored, low, "minimum", fmt)
    return floored


def _check(stored: Tensor, exact: Tensor, what: str, fmt: Format) -> None:
    if not bool(torch.isfinite(stored).all()):
        raise FormatError(
            f"the largest weight needs a {what} of {float(exact.abs().max()):.3g} at {fmt.name}, "
            f"but {what}s are stored as float16 (at most {_LIMITS.max:.0f}); "
            "keep this unit at 32 bits"
        )
