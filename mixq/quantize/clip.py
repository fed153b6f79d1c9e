"""Searched steps: scales and offsets of least squared error, weighted by how large inputs are.

Covering the largest weight of a group is not what makes the error least: a narrower range clips
few weights and rounds all others finer. Here ranges are shrunk in small steps, and the best one is
refined by turns of least squares (steps for the codes, then codes for the steps). A weight counts
as much as the mean square of its input, which is the diagonal of the layer's output error.

Source: the search over shrunken ranges is OMSE, Choukroun et al., arXiv 1902.06822 (weighted by
inputs as in Lin et al., "AWQ", MLSys 2024); the turns are Lloyd's, "Least squares
quantization in PCM", IEEE Trans. Inf. Theory 28, 1982, on a uniform grid.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from mixq.formats import Format
from mixq.quantize.blocks import block_of_row, column_blocks, row_chunks
from mixq.quantize.codes import (
    SCALE_DTYPE,
    Steps,
    better_steps,
    code_range,
    is_weight,
    joined_steps,
    nearest,
    to_groups,
    values,
)
from mixq.quantize.ranges import range_steps, rounded_scales

SHRINKS = 24
"""Number of ranges tried."""
ENDS = 8
"""Number of parts tried of either half of the range, where a grid has a float minimum."""
NARROWEST = {8: 0.6, 4: 0.35, 2: 0.15}
"""The narrowest part tried, by bits."""
TURNS = 6
"""Turns of least squares after the search."""
DAMPING = 0.01
"""Part of the mean importance that every weight has at least, as in GPTQ."""
CHUNK = 1 << 18  # weights at a time: temporaries stay in a core's cache


def clip_steps(weight: Tensor, fmt: Format, diagonal: Tensor | None = None) -> Steps:
    """Steps of a (rows, columns) matrix whose nearest codes have little weighted squared error.

    The error is never above that of `range_steps`, group by group.

    Args:
        weight: floats of shape (rows, columns).
        fmt: an integer format.
        diagonal: mean squares of the inputs, shape (blocks, columns) or (columns,); row r uses
            block r x blocks // rows. Without it all weights count the same.

    Raises:
        FormatError: if a scale or minimum of the whole range does not fit into float16.
    """
    rows, columns = weight.shape
    importance = importances(diagonal, rows, columns, fmt).to(weight.device)
    block = block_of_row(rows, len(importance))
    found = [
        _search(
            to_groups(weight[chunk].to(torch.float32), fmt),
            importance[block[chunk]] if len(importance) > 1 else importance,
            fmt,
        )
        for chunk in row_chunks(rows, columns, CHUNK)
    ]
    return joined_steps(found)


def importances(diagonal: Tensor | None, rows: int, columns: int, fmt: Format) -> Tensor:
    """What a squared error of each weight counts, float32 of shape (blocks, groups, size).

    1 on average; zero where a ragged group was filled up.
    """
    if diagonal is None:
        diagonal = torch.ones(columns)
    blocks = column_blocks(diagonal, rows, columns).to(torch.float64)
    mean = blocks.mean(1, keepdim=True)
    relative = torch.where(mean > 0, blocks / mean, torch.ones_like(blocks)) + DAMPING
    grouped = to_groups(relative.to(torch.float32), fmt)
    return grouped * is_weight(1, columns, fmt).to(grouped.device)


def weighted_errors(grouped: Tensor, steps: Steps, importance: Tensor, fmt: Format) -> Tensor:
    """Weighted squared error of the nearest codes per group, shape (rows, groups)."""
    return _errors(grouped, nearest(grouped, steps, fmt), steps, importance, fmt)


def _search(grouped: Tensor, importance: Tensor, fmt: Format) -> Steps:
    low, high = grouped.amin(2), grouped.amax(2)
    best = range_steps(low, high, fmt)
    least = weighted_errors(grouped, best, importance, fmt)
    for steps in _shrunken(low, high, fmt):
        errors = weighted_errors(grouped, steps, importance, fmt)
        best, least = better_steps(best, least, steps, errors)
    for _ in range(TURNS):
        codes = nearest(grouped, best, fmt)
        steps = least_squares(grouped, codes, importance, fmt)
        errors = weighted_errors(grouped, steps, importance, fmt)
        best, least = better_steps(best, least, steps, errors)
    return best


def _shrunken(low: Tensor, high: Tensor, fmt: Format) -> Iterator[Steps]:
    """Steps that cover parts of low..high; what overflows float16 is infinite."""
    smallest, largest = code_range(fmt)
    half = 1 << (fmt.bits - 1)
    if fmt.grid == "affine":
        middle, reach = (low + high) / 2, (high - low) / 2
        for below, above in itertools.product(_parts(fmt, ENDS), repeat=2):
            scales = rounded_scales(reach * (below + above) / (largest - smallest))
            yield Steps(scales, minimums=(middle - reach * below).to(SCALE_DTYPE))
        return
    outer = torch.where(high.abs() > low.abs(), high, low)
    for part in _parts(fmt, SHRINKS):
        if fmt.grid == "zero-point":
            yield range_steps(low * part, high * part, fmt)
        elif fmt.grid == "signed":
            yield Steps(rounded_scales(outer * part / (smallest - half)))
            yield Steps(rounded_scales(outer * part / (largest - half)))
        else:
            yield Steps(rounded_scales(outer.abs() * part / (largest - half)))


def _parts(fmt: Format, count: int) -> list[float]:
    narrowest = NARROWEST[fmt.bits]
    return [1.0 - (1.0 - narrowest) * step / (count - 1) for step in range(count)]


def least_squares(grouped: Tensor, codes: Tensor, importance: Tensor, fmt: Format) -> Steps:
    """Steps of least weighted squared error for given codes of shape (rows, groups, size).

    A scale is not a number where the codes fix none (they are all the same), or fix one of a sign
    that the grid has not.
    """
    if fmt.grid not in ("zero-point", "affine"):
        return Steps(_scales(grouped, codes - (1 << (fmt.bits - 1)), importance, fmt))
    total = importance.sum(2, keepdim=True)
    mean_code = (codes * importance).sum(2, keepdim=True) / total
    mean_weight = (grouped * importance).sum(2, keepdim=True) / total
    scales = _scales(grouped - mean_weight, codes - mean_code, importance, fmt)
    mean_code, mean_weight = mean_code[..., 0], mean_weight[..., 0]
    if fmt.grid == "affine":
        minimums = mean_weight - scales.to(torch.float32) * mean_code
        return Steps(scales, minimums=minimums.to(SCALE_DTYPE))
    zeros = (mean_code - mean_weight / scales.to(torch.float32)).round()
    zeros = zeros.nan_to_num(0.0).clamp(*code_range(fmt))
    scales = _scales(grouped, codes - zeros[..., None], importance, fmt)
    return Steps(scales, zeros=zeros.to(torch.uint8))


def _scales(target: Tensor, codes: Tensor, importance: Tensor, fmt: Format) -> Tensor:
    """The s of least weighted (target - s x codes)^2, float16 of shape (rows, groups)."""
    weighted = codes * importance
    slope = (target * weighted).sum(2) / (codes * weighted).sum(2)
    if fmt.grid != "signed":
        slope = torch.where(slope > 0, slope, torch.full_like(slope, torch.nan))
    return rounded_scales(slope)


def _errors(
    grouped: Tensor, codes: Tensor, steps: Steps, importance: Tensor, fmt: Format
) -> Tensor:
    return ((values(codes, steps, fmt) - grouped).square_() * importance).sum(2)
