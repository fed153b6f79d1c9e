"""Counting: the histogram of a weight matrix, as it is and as each width stores it."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from mixq.errors import FormatError
from mixq.formats import Format
from mixq.quantize.codes import Steps, code_range, to_groups, values
from mixq.quantize.histogram import BINS, GROUP_SIZE, WIDTHS, Histogram, WidthPicture
from mixq.quantize.ranges import range_steps
from mixq.quantize.weights import round_trip

MOST_WEIGHTS: Final = 1 << 22
"""That are counted; rows of larger matrices are taken at even distances."""


def count_weights(
    weight: Tensor, rows: int, columns: int, *, unit: str, error: float, error_format: str
) -> Histogram | None:
    """The histogram of a parameter, seen as a (rows, columns) matrix; None if it is all zero.

    Every width is rounded to nearest on the symmetric grid, integers in groups of `GROUP_SIZE`
    with their float16 scales: what mixq stores where it is asked for no more than that.

    Args:
        weight: finite floats with rows x columns elements.
        rows: of the matrix.
        columns: of the matrix.
        unit: its name.
        error: why it is shown, see `Histogram`.
        error_format: as `error`.
    """
    whole = weight.detach().reshape(rows, columns)
    kept = max(1, MOST_WEIGHTS // columns)
    if rows > kept:
        whole = whole[torch.arange(kept, device=whole.device) * rows // kept]
    matrix = whole.to("cpu", torch.float32)
    limit = float(matrix.abs().max())
    if limit == 0:
        return None
    widths = []
    for bits in WIDTHS:
        fmt = Format(bits) if bits >= 16 else Format(bits, GROUP_SIZE)
        try:
            widths.append(_width(matrix, fmt, limit))
        except FormatError:  # too large for float16: the picture does without
            continue
    return Histogram(
        unit=unit,
        error=error,
        error_format=error_format,
        weights=rows * columns,
        counted=matrix.numel(),
        limit=limit,
        widths=widths,
    )


def _width(matrix: Tensor, fmt: Format, limit: float) -> WidthPicture:
    stored = round_trip(matrix, fmt, *matrix.shape)
    lost = (stored.double() - matrix.double()).square().sum()
    grid = [] if fmt.is_float else _typical_grid(matrix, fmt)
    return WidthPicture(
        bits=fmt.bits,  # type: ignore[arg-type]
        format=fmt.name,
        counts=torch.histc(stored.clamp(-limit, limit), BINS, -limit, limit).long().tolist(),
        representable=len(grid) or _floats_within(limit, fmt),
        grid=grid,
        zero_share=float((stored == 0).double().mean()),
        relative_error=float(lost / matrix.double().square().sum()),
    )


def _typical_grid(matrix: Tensor, fmt: Format) -> list[float]:
    """The numbers that a group can hold; the one whose range is the median of all groups'."""
    grouped = to_groups(matrix, fmt)
    largest = grouped.abs().amax(2).flatten()
    typical = largest.argsort(stable=True)[(len(largest) - 1) // 2]
    own = grouped.reshape(-1, grouped.shape[2])[typical].view(1, 1, -1)
    steps: Steps = range_steps(own.amin(2), own.amax(2), fmt)
    first, last = code_range(fmt)
    return [float(value) for value in values(torch.arange(first, last + 1), steps, fmt).flatten()]


def _floats_within(limit: float, fmt: Format) -> int:
    """How many floats lie in -limit..limit: bit patterns of positive ones count up."""
    half = fmt.bits == 16
    largest = torch.tensor(limit, dtype=torch.float16 if half else torch.float32)
    bits = int(largest.view(torch.int16 if half else torch.int32))
    return 2 * bits + 1
