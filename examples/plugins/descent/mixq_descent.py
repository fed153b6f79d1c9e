"""Rounding by coordinate descent: each code in turn is chosen anew, for all others as they are.

The output error of a row is e H e^T, with e what rounding took off its weights and H = E[x x^T] of
its inputs. In one code it is a parabola, so that the best value of that code is known, and the
error never rises.

Source: Behdin et al., "QuantEase: Optimization-based Quantization for Language Models",
arXiv 2309.01885, algorithm 2.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from mixq.errors import FormatError
from mixq.formats import Format
from mixq.quantize.clip import clip_steps
from mixq.quantize.codes import Codes, code_range, from_groups, nearest, to_groups
from mixq.quantize.methods import Inputs, Needs
from mixq.quantize.refit import grid_lines

SWEEPS: Final = 3
"""Turns through all columns; later ones hardly move a code."""
DAMPING: Final = 0.01
"""Part of the mean of H's diagonal that is added to it, as in GPTQ."""


class Descent:
    """The method, as mixq knows it by the entry point `descent`."""

    needs: Needs = "second"

    def round(self, weight: Tensor, fmt: Format, inputs: Inputs) -> Codes:
        """Codes of a float32 matrix of shape (rows, columns)."""
        if inputs.second is None:
            raise FormatError(f"{fmt.name} needs second moments")  # mixq has refused before
        rows, columns = weight.shape
        steps = clip_steps(weight, fmt, inputs.diagonal)
        codes = from_groups(nearest(to_groups(weight, fmt), steps, fmt), columns)
        group = torch.arange(columns) // (fmt.group_size or columns)
        scales, zeros, shifts = (part.double()[:, group] for part in grid_lines(steps, fmt))
        per_block = rows // len(inputs.second)
        for block, second in enumerate(inputs.second):
            own = slice(block * per_block, (block + 1) * per_block)
            lines = (scales[own], zeros[own], shifts[own])
            codes[own] = descended(weight[own], codes[own], lines, damped(second), fmt)
        return Codes(codes.to(torch.uint8), steps)


def damped(second: Tensor) -> Tensor:
    """H in float64 with a diagonal of 1 on average, positive definite."""
    second = second.double()
    size = second.diagonal().mean()
    relative = second / size if size > 0 else torch.zeros_like(second)
    return relative + DAMPING * torch.eye(len(second), dtype=torch.float64)


def descended(
    weight: Tensor,
    codes: Tensor,
    lines: tuple[Tensor, Tensor, Tensor],
    second: Tensor,
    fmt: Format,
) -> Tensor:
    """Codes of less e H e^T; a code c is worth (c - zero) x scale + shift.

    Args:
        weight: floats of shape (rows, columns).
        codes: to start from, floats of that shape.
        lines: scales, zeros and shifts of every weight, each of that shape.
        second: H, float64 of shape (columns, columns).
        fmt: the format.
    """
    scales, zeros, shifts = lines
    values = (codes.double() - zeros) * scales + shifts
    met = (weight.double() - values) @ second
    for _ in range(SWEEPS):
        for column in range(weight.shape[1]):
            scale, zero, shift = (line[:, column] for line in lines)
            old = values[:, column]
            best = old + met[:, column] / second[column, column]  # the parabola's lowest point
            code = ((best - shift) / scale + zero).round().clamp(*code_range(fmt))
            new = (code - zero) * scale + shift
            change = torch.where((new - best).abs() < (old - best).abs(), new - old, 0.0)
            values[:, column] = old + change
            met -= change[:, None] * second[column]
    return ((values - shifts) / scales + zeros).round().float()


DESCENT: Final = Descent()
