"""GPTQ: weights rounded one input at a time, the rest making up for the error.

Source: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", ICLR 2023, algorithm 1, with activation order and static groups (the authors' code).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mixq.formats import Format
from mixq.quantize.blocks import check_finite, row_chunks
from mixq.quantize.codes import Steps, code_range
from mixq.quantize.refit import grid_lines, on_grid, refit_steps, row_errors

DAMPING = 0.05
"""Part of the mean diagonal added to the second moments. The authors add 0.01; on MiniLM with
3072 calibration tokens 0.03 to 0.1 is best: 0.1 lowers layer errors by 4% on held-out texts and by
11% on another kind of text."""
_LAZY = 128  # columns whose updates of the rest are gathered into one matrix product
_CHUNK = 1 << 22  # weights at a time


@dataclass(frozen=True, slots=True)
class Factor:
    """What GPTQ needs of a unit's inputs; made once, used by all formats of the unit.

    Attributes:
        order: input columns by falling mean square, int64 of shape (blocks, columns).
        upper: float32 of shape (blocks, columns, columns): upper U with U^T U the inverse of the
            damped second moments in that order.
        damped: float32 of that shape, the damped second moments in their own order.
    """

    order: Tensor
    upper: Tensor
    damped: Tensor


def prepare(second: Tensor, damping: float = DAMPING) -> Factor:
    """Factor of second moments of shape (columns, columns) or (blocks, columns, columns).

    Inputs that were never seen come out independent of all others. A block that is indefinite
    is damped ten times as much until it is not.

    Raises:
        CalibrationError: if they are not finite.
    """
    check_finite(second)
    blocks = second[None] if second.dim() == 2 else second
    chunks = row_chunks(len(blocks), blocks[0].numel(), _CHUNK)
    parts = [_factor(blocks[chunk].to(torch.float64), damping) for chunk in chunks]
    order, upper, damped = (torch.cat(part) for part in zip(*parts, strict=True))
    return Factor(order, upper, damped)


def _factor(blocks: Tensor, damping: float) -> tuple[Tensor, Tensor, Tensor]:
    """What a `Factor` holds, of float64 blocks."""
    diagonal = blocks.diagonal(dim1=1, dim2=2)
    mean = diagonal.mean(1)
    unit = torch.where(mean > 0, mean, torch.ones_like(mean))[:, None]
    order = diagonal.argsort(dim=1, descending=True, stable=True)
    index = order[:, :, None].expand_as(blocks)
    added = torch.full_like(unit, damping)
    while True:
        damped = blocks + torch.diag_embed((added * unit).expand_as(diagonal))
        turned = damped.gather(1, index).gather(2, index.mT).flip(1, 2)
        lower, failed = torch.linalg.cholesky_ex(turned)
        if not bool(failed.any()):
            break
        added = torch.where(failed[:, None] > 0, (added * 10).clamp(min=1e-6), added)
    # H = R R^T with R upper is the Cholesky factorization of H turned by half a turn, and
    # U = R^-1: one factorization and one triangular inverse, never the inverse of H.
    identity = torch.eye(blocks.shape[1], dtype=torch.float64, device=blocks.device)
    upper = torch.linalg.solve_triangular(lower.flip(1, 2), identity.expand_as(blocks), upper=True)
    return order, upper.to(torch.float32), damped.to(torch.float32)


def gptq(weight: Tensor, fmt: Format, steps: Steps, factor: Factor) -> tuple[Tensor, Steps]:
    """Codes, as floats of shape (rows, columns), and steps refitted to them.

    A row's refitted steps, and codes chosen once more on these, are kept where they lower the
    row's output error on the damped second moments.

    Args:
        weight: floats of shape (rows, columns).
        fmt: an integer format.
        steps: to begin with.
        factor: of the inputs; row r uses block r x blocks // rows.
    """
    weight = weight.to(torch.float32)
    codes = gptq_codes(weight, fmt, steps, factor)
    steps = refit_steps(weight, codes, fmt, steps, factor.damped)
    again = gptq_codes(weight, fmt, steps, factor)
    before, after = (
        row_errors(weight, on_grid(c, steps, fmt), factor.damped) for c in (codes, again)
    )
    return torch.where((after < before)[:, None], again, codes), steps


def gptq_codes(weight: Tensor, fmt: Format, steps: Steps, factor: Factor) -> Tensor:
    """Codes on given steps, as floats of shape (rows, columns).

    Args:
        weight: floats of shape (rows, columns).
        fmt: an integer format.
        steps: fixed beforehand ("static groups").
        factor: of the inputs; row r uses block r x blocks // rows.
    """
    rows, columns = weight.shape
    blocks = len(factor.order)
    group = factor.order // (fmt.group_size or columns)  # of each column, in order
    inverse = factor.order.argsort(dim=1)
    weights = weight.to(torch.float32).reshape(blocks, rows // blocks, columns)
    parts = [
        part.to(torch.float32).view(blocks, rows // blocks, -1) for part in grid_lines(steps, fmt)
    ]
    codes = torch.empty_like(weights)
    for chunk in row_chunks(rows // blocks, blocks * columns, _CHUNK):
        swept = _sweep(
            _taken(weights[:, chunk], factor.order),
            [_taken(part[:, chunk], group) for part in parts],
            factor.upper,
            code_range(fmt),
        )
        codes[:, chunk] = _taken(swept.mT, inverse).mT
    return codes.view(rows, columns)


def _taken(matrix: Tensor, index: Tensor) -> Tensor:
    """(blocks, rows, n) by an index of shape (blocks, m): (blocks, m, rows), contiguous."""
    wide = index[:, None, :].expand(-1, matrix.shape[1], -1)
    return matrix.gather(2, wide).mT.contiguous()


def _sweep(weights: Tensor, lines: list[Tensor], upper: Tensor, limits: tuple[int, int]) -> Tensor:
    """Codes of shape (blocks, columns, rows) from weights of that shape, which are changed."""
    scales, zeros, shifts = lines
    columns = weights.shape[1]
    codes = torch.empty_like(weights)
    for start in range(0, columns, _LAZY):
        stop = min(start + _LAZY, columns)
        errors = torch.empty_like(weights[:, start:stop])
        for column in range(start, stop):
            exact = weights[:, column]
            scale, zero, shift = scales[:, column], zeros[:, column], shifts[:, column]
            code = ((exact - shift) / scale + zero).round_().clamp_(*limits)
            codes[:, column] = code
            error = (exact - ((code - zero) * scale + shift)) / upper[:, column, column, None]
            errors[:, column - start] = error
            weights[:, column + 1 : stop].baddbmm_(
                upper[:, column, column + 1 : stop, None], error[:, None, :], alpha=-1
            )
        weights[:, stop:].baddbmm_(upper[:, start:stop, stop:].mT, errors, alpha=-1)
    return codes
