"""Rounding: weights to integer codes with one scale per group, and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mixq.errors import FormatError
from mixq.formats import Format
from mixq.quantize.flips import flip_to_cancel

SCALE_DTYPE = torch.float16


@dataclass(frozen=True, slots=True)
class Codes:
    """Integer codes of a (rows, columns) matrix, before packing.

    Attributes:
        values: uint8 of shape (rows, columns); symmetric codes are stored with 2^(bits-1) added.
        scales: float16 of shape (rows, groups per row).
        zero_points: uint8 of shape (rows, groups per row); None on the symmetric grid.
    """

    values: Tensor
    scales: Tensor
    zero_points: Tensor | None


def round_weights(weight: Tensor, fmt: Format) -> Codes:
    """Codes of a floating-point matrix of shape (rows, columns), rounded as the format says.

    Symmetric: scale = absmax / (2^(bits-1) - 1). Zero-point: the range from min(0, min) to
    max(0, max) over 2^bits - 1 steps, with zero exactly on the grid. The scale is rounded to
    float16 *before* the codes are chosen, so that the codes are nearest on the stored grid: with
    `rtn` every weight is at most half a stored scale off. On the zero-point grid, a scale that
    float16 rounds down (by at most 2^-11) adds up to (2^bits - 1) x 2^-11 scales at the ends of
    the range.

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", CVPR 2018, section 2 (zero-point); Krishnamoorthi,
    arXiv 1806.08342, section 2 (symmetric).

    Raises:
        FormatError: if a scale does not fit into float16.
    """
    grouped = _to_groups(weight.to(torch.float32), fmt)  # (rows, groups, group size)
    if fmt.grid == "symmetric":
        low_code, high_code = -_qmax(fmt), _qmax(fmt)
        scales = _storable(grouped.abs().amax(2) / high_code, fmt)
        offset = torch.zeros_like(scales, dtype=torch.float32)
        shift = 1 << (fmt.bits - 1)
    else:
        low_code, high_code = 0, (1 << fmt.bits) - 1
        low = grouped.amin(2).clamp(max=0)
        high = grouped.amax(2).clamp(min=0)
        scales = _storable((high - low) / high_code, fmt)
        offset = (-low / scales.to(torch.float32)).round().clamp(low_code, high_code)
        shift = 0
    exact = grouped / scales.to(torch.float32)[..., None] + offset[..., None]
    codes = exact.round().clamp(low_code, high_code)
    if fmt.method == "squant":
        weights = _to_groups(torch.ones_like(weight, dtype=torch.float32), fmt) > 0
        codes = flip_to_cancel(codes, exact, low_code, high_code, weights)
    values = (codes + shift).to(torch.uint8)
    return Codes(
        values=_from_groups(values, weight.shape[1]),
        scales=scales,
        zero_points=offset.to(torch.uint8) if fmt.grid == "zero-point" else None,
    )


def dequantize(codes: Codes, fmt: Format) -> Tensor:
    """The float32 matrix of shape (rows, columns) that `codes` stand for."""
    columns = codes.values.shape[1]
    scales = _expand(codes.scales.to(torch.float32), fmt, columns)
    if codes.zero_points is None:
        zeros: Tensor | float = float(1 << (fmt.bits - 1))
    else:
        zeros = _expand(codes.zero_points.to(torch.float32), fmt, columns)
    return (codes.values.to(torch.float32) - zeros) * scales


def _qmax(fmt: Format) -> int:
    return (1 << (fmt.bits - 1)) - 1


def _storable(scales: Tensor, fmt: Format) -> Tensor:
    """`scales` in float16, never zero: an all-zero group gets scale 1 and codes of zero.

    Below float16's smallest normal number its steps are coarse; there a scale is rounded up, so
    that no weight lies far beyond the largest code and none is divided by zero.
    """
    stored = scales.to(SCALE_DTYPE)
    if not bool(torch.isfinite(stored).all()):
        raise FormatError(
            f"the largest weight needs a scale of {float(scales.max()):.3g} at {fmt.name}, but "
            f"scales are stored as float16 (at most {torch.finfo(SCALE_DTYPE).max:.0f}); "
            "keep this unit at 32 bits"
        )
    limits = torch.finfo(SCALE_DTYPE)
    step = limits.smallest_normal * limits.eps  # between two subnormal numbers
    coarse = (stored < limits.smallest_normal) & (stored.to(torch.float32) < scales)
    stored = torch.where(coarse, stored + step, stored)
    return torch.where(scales == 0, torch.ones_like(stored), stored)


def _to_groups(matrix: Tensor, fmt: Format) -> Tensor:
    """(rows, columns) to (rows, groups, group size).

    A ragged last group is filled up with zeros, which change neither the largest magnitude nor
    a range that includes zero.
    """
    rows, columns = matrix.shape
    size = columns if fmt.group_size is None else fmt.group_size
    groups = fmt.groups_per_row(columns)
    padded = torch.nn.functional.pad(matrix, (0, groups * size - columns))
    return padded.view(rows, groups, size)


def _from_groups(grouped: Tensor, columns: int) -> Tensor:
    return grouped.reshape(grouped.shape[0], -1)[:, :columns].contiguous()


def _expand(per_group: Tensor, fmt: Format, columns: int) -> Tensor:
    """(rows, groups) to (rows, columns), or to (rows, 1) where one group is the whole row."""
    if per_group.shape[1] == 1 or fmt.group_size is None:
        return per_group
    return per_group.repeat_interleave(fmt.group_size, dim=1)[:, :columns]
