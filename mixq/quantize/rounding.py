"""Rounding: weights to integer codes, by the method that the format names."""

from __future__ import annotations

import torch
from torch import Tensor

from mixq.errors import FormatError
from mixq.formats import Format
from mixq.quantize.blocks import column_blocks, row_chunks, second_blocks
from mixq.quantize.clip import clip_steps
from mixq.quantize.codes import (
    Codes,
    Steps,
    code_range,
    from_groups,
    is_weight,
    nearest,
    positions,
    to_groups,
)
from mixq.quantize.flips import flip_to_cancel
from mixq.quantize.gptq import Factor, gptq, prepare
from mixq.quantize.hqq import hqq_steps
from mixq.quantize.ranges import range_steps

_CHUNK = 1 << 20  # weights at a time, in float64


def round_weights(
    weight: Tensor,
    fmt: Format,
    second: Tensor | None = None,
    diagonal: Tensor | None = None,
    factor: Factor | None = None,
) -> Codes:
    """Codes of a floating-point matrix of shape (rows, columns).

    With `rtn` every weight is at most half a stored scale off, beside what float16 takes off the
    scale: at most 2^-11 of it, times up to 2^bits - 1 codes at the far end of a range.

    Args:
        weight: floats of shape (rows, columns).
        fmt: an integer format.
        second: E[x x^T] of the inputs, shape (blocks, columns, columns) or (columns, columns);
            row r uses block r x blocks // rows. `gptq` needs it.
        diagonal: its diagonals, shape (blocks, columns) or (columns,), where `second` itself is
            not at hand: `clip` weights errors by them.
        factor: `prepare(second)`, made here if it is not given.

    Raises:
        FormatError: if a scale or minimum does not fit into float16, or `gptq` gets no `second`.
        CalibrationError: if `second` is not finite.
    """
    weight = weight.to(torch.float32)
    rows, columns = weight.shape
    if second is not None:
        second = second_blocks(second, rows, columns)
        diagonal = second.diagonal(dim1=1, dim2=2)
    if fmt.method == "gptq":
        if second is None:
            raise FormatError(
                f"{fmt.name} is rounded by the inputs' second moments, but none were collected; "
                "calibrate this unit, or choose the method 'clip'"
            )
        steps = clip_steps(weight, fmt, diagonal)
        codes, steps = gptq(weight, fmt, steps, factor or prepare(second))
        return Codes(codes.to(torch.uint8), steps)
    grouped = to_groups(weight, fmt)  # (rows, groups, group size)
    if fmt.method == "clip":
        steps = clip_steps(weight, fmt, diagonal)
    elif fmt.method == "hqq":
        steps = hqq_steps(weight, fmt)
    else:
        steps = range_steps(grouped.amin(2), grouped.amax(2), fmt)
    codes = nearest(grouped, steps, fmt)
    if fmt.method == "squant":
        exact = positions(grouped, steps, fmt)
        mask = is_weight(rows, columns, fmt).to(weight.device)
        codes = flip_to_cancel(codes, exact, *code_range(fmt), mask)
    return as_codes(codes, steps, columns)


def as_codes(codes: Tensor, steps: Steps, columns: int) -> Codes:
    """Codes of shape (rows, groups, size) and their steps, as they are packed."""
    return Codes(from_groups(codes.to(torch.uint8), columns), steps)


def input_error(
    weight: Tensor, rounded: Tensor, second: Tensor | None = None, diagonal: Tensor | None = None
) -> float:
    """Mean squared error of the layer's outputs, E|(W - W_q) x|^2 / rows.

    That is tr(E H E^T) / rows with E = W - W_q and H = E[x x^T], summed in float64. Without
    `second`, inputs count as independent with mean squares `diagonal`, or 1.

    Args:
        weight: floats of shape (rows, columns).
        rounded: what is stored of them, same shape.
        second: as in `round_weights`.
        diagonal: as in `round_weights`.
    """
    rows, columns = weight.shape
    total = 0.0
    if second is not None:
        blocks = second_blocks(second, rows, columns)
    else:
        ones = torch.ones(1, columns) if diagonal is None else diagonal
        blocks = column_blocks(ones, rows, columns)
    for block, moments in enumerate(blocks):
        own = slice(block * rows // len(blocks), (block + 1) * rows // len(blocks))
        moments = moments.to(torch.float64)
        for part in row_chunks(own.stop - own.start, columns, _CHUNK):
            error = weight[own][part].to(torch.float64) - rounded[own][part].to(torch.float64)
            met = error @ moments if moments.dim() == 2 else error * moments
            total += float((met * error).sum())
    return total / rows


def bias_shift(weight: Tensor, rounded: Tensor, mean: Tensor) -> Tensor:
    """E[(W - W_q) x], float32 of shape (rows,): to be added to the layer's bias.

    Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
    Correction", ICCV 2019, section 4.2.

    Args:
        weight: floats of shape (rows, columns).
        rounded: what is stored of them, same shape.
        mean: E[x], shape (blocks, columns) or (columns,); row r uses block r x blocks // rows.
    """
    rows, columns = weight.shape
    blocks = column_blocks(mean, rows, columns).to(torch.float64)
    error = weight.to(torch.float64) - rounded.to(torch.float64)
    shift = torch.bmm(error.view(len(blocks), -1, columns), blocks[:, :, None])
    return shift.reshape(rows).to(torch.float32)
