"""Rounding: weights to integer codes, by the method that the format names."""

from __future__ import annotations

import torch
from torch import Tensor

from mixq.errors import FormatError, MixqError, PluginError
from mixq.files import one_line
from mixq.formats import METHODS, Format
from mixq.quantize.blocks import column_blocks, row_chunks, second_blocks
from mixq.quantize.codes import Codes, code_range
from mixq.quantize.gptq import Factor
from mixq.quantize.methods import Inputs, method_of

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
        FormatError: if a scale or minimum does not fit into float16, or the method needs `second`
            and gets none.
        CalibrationError: if `second` is not finite.
        PluginError: if a method from outside mixq fails.
    """
    weight = weight.to(torch.float32)
    rows, columns = weight.shape
    if second is not None:
        second = second_blocks(second, rows, columns)
        diagonal = second.diagonal(dim1=1, dim2=2)
    method = method_of(fmt)
    if method.needs == "second" and second is None:
        raise FormatError(
            f"{fmt.name} is rounded by the inputs' second moments, but none were collected; "
            "calibrate this unit, or choose the method 'clip'"
        )
    inputs = Inputs(second, diagonal, factor)
    if fmt.method in METHODS.own:
        return method.round(weight, fmt, inputs)
    codes: Codes | None = None
    try:
        codes = method.round(weight, fmt, inputs)
        fault = _fault(codes, fmt, rows, columns)
    except MixqError:
        raise
    except Exception as error:  # a package may raise anything; it is reported, not swallowed
        fault = f"fails on {rows} x {columns} weights: {type(error).__name__}: {one_line(error)}"
    if codes is None or fault:
        raise PluginError(
            f"rounding method {fmt.method!r} of {METHODS.origin(fmt.method)} {fault}; report it "
            "to its author, or choose another method"
        )
    return codes


def _fault(codes: Codes, fmt: Format, rows: int, columns: int) -> str:
    """What is wrong with codes that a package made; empty if nothing is."""
    values, steps = codes.values, codes.steps
    groups = (rows, fmt.groups_per_row(columns))
    parts = {
        "codes": (values, (rows, columns), torch.uint8),
        "scales": (steps.scales, groups, torch.float16),
        "zeros": (steps.zeros, groups if fmt.grid == "zero-point" else None, torch.uint8),
        "minimums": (steps.minimums, groups if fmt.grid == "affine" else None, torch.float16),
    }
    for name, (found, shape, dtype) in parts.items():
        if found is None and shape is None:
            continue
        if found is None or shape is None or (found.shape, found.dtype) != (shape, dtype):
            wanted = "none" if shape is None else f"{dtype} of shape {shape}"
            got = "none" if found is None else f"{found.dtype} of shape {tuple(found.shape)}"
            return f"gives {name} that are {got} where {fmt.name} has {wanted}"
        if not bool(found.isfinite().all()):
            return f"gives {name} that are not finite"
    low, high = code_range(fmt)
    if values.numel() and not low <= int(values.min()) <= int(values.max()) <= high:
        return f"gives codes in {int(values.min())}..{int(values.max())} beyond {low}..{high}"
    if steps.zeros is not None and int(steps.zeros.max()) > high:
        return f"gives zero points up to {int(steps.zeros.max())} beyond {high}"
    if fmt.grid != "signed" and not bool((steps.scales > 0).all()):
        return "gives scales that are not positive"
    return ""


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
