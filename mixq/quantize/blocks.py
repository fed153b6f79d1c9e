"""Row blocks: which rows of a weight meet which input statistics.

A Linear layer's rows all see the same inputs; the rows of a grouped convolution see those of their
own group. Statistics come as `blocks` slices, and row r of `rows` uses slice r x blocks // rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mixq.errors import CalibrationError, FormatError


def second_blocks(second: Tensor, rows: int, columns: int) -> Tensor:
    """E[x x^T] of shape (columns, columns) or (blocks, columns, columns), as the latter.

    Raises:
        FormatError: if it does not fit a (rows, columns) matrix.
        CalibrationError: if it is not finite.
    """
    blocks = second[None] if second.dim() == 2 else second
    return _checked(blocks, (columns, columns), rows)


def column_blocks(statistic: Tensor, rows: int, columns: int) -> Tensor:
    """A number per input of shape (columns,) or (blocks, columns), as the latter.

    Raises:
        FormatError: if it does not fit a (rows, columns) matrix.
        CalibrationError: if it is not finite.
    """
    blocks = statistic[None] if statistic.dim() == 1 else statistic
    return _checked(blocks, (columns,), rows)


def block_of_row(rows: int, blocks: int) -> Tensor:
    """The block that each row uses, int64 of shape (rows,)."""
    return torch.arange(rows) * blocks // rows


def row_chunks(rows: int, numbers_per_row: int, numbers: int) -> Iterator[slice]:
    """Slices of rows that hold about `numbers` numbers each, to bound memory."""
    step = max(1, numbers // max(1, numbers_per_row))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def check_finite(statistic: Tensor) -> None:
    """Refuses statistics of inputs that were NaN or too large to be squared.

    Raises:
        CalibrationError: if a number is not finite.
    """
    if not bool(torch.isfinite(statistic).all()):
        raise CalibrationError(
            "statistics of a layer's inputs are NaN or infinite, but rounding weighs errors by "
            "them; calibrate on data on which all activations are finite"
        )


def _checked(blocks: Tensor, inner: tuple[int, ...], rows: int) -> Tensor:
    if tuple(blocks.shape[1:]) != inner or len(blocks) == 0 or rows % len(blocks):
        raise FormatError(
            f"input statistics of shape {tuple(blocks.shape)} do not belong to {rows} x "
            f"{inner[0]} weights; they must be (blocks, {', '.join(map(str, inner))}) with a "
            "number of blocks that divides the rows"
        )
    check_finite(blocks)
    return blocks
