"""Codes: integers and the steps that turn them into weights; the matrix cut into groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mixq.formats import Format

SCALE_DTYPE = torch.float16


@dataclass(frozen=True, slots=True)
class Steps:
    """What turns the codes of each group into weights, as it is stored.

    Attributes:
        scales: float16 of shape (rows, groups per row); negative ones on the signed grid only.
        zeros: uint8 of that shape on the zero-point grid, else None.
        minimums: float16 of that shape on the affine grid, else None.
    """

    scales: Tensor
    zeros: Tensor | None = None
    minimums: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Codes:
    """Integer codes of a (rows, columns) matrix, before packing.

    Attributes:
        values: uint8 of shape (rows, columns); signed codes are stored with 2^(bits-1) added.
        steps: what they stand for.
    """

    values: Tensor
    steps: Steps


def code_range(fmt: Format) -> tuple[int, int]:
    """Smallest and largest code as it is stored, without a sign."""
    half = 1 << (fmt.bits - 1)
    if fmt.grid == "symmetric":
        return 1, 2 * half - 1
    if fmt.grid == "reduced":
        return half - 63, half + 63
    return 0, 2 * half - 1


def positions(weights: Tensor, steps: Steps, fmt: Format) -> Tensor:
    """Where weights of shape (rows, groups, size) lie among the codes, as fractions."""
    scales = steps.scales.to(torch.float32)[..., None]
    if steps.minimums is not None:
        return (weights - steps.minimums.to(torch.float32)[..., None]) / scales
    return weights / scales + _zeros(steps, fmt)


def nearest(weights: Tensor, steps: Steps, fmt: Format) -> Tensor:
    """Nearest codes, as floats, of weights of shape (rows, groups, size)."""
    return positions(weights, steps, fmt).round_().clamp_(*code_range(fmt))


def values(codes: Tensor, steps: Steps, fmt: Format) -> Tensor:
    """The float32 weights of codes of shape (rows, groups, size)."""
    scales = steps.scales.to(torch.float32)[..., None]
    codes = codes.to(torch.float32)
    if steps.minimums is not None:
        return codes * scales + steps.minimums.to(torch.float32)[..., None]
    return (codes - _zeros(steps, fmt)) * scales


def dequantize(codes: Codes, fmt: Format) -> Tensor:
    """The float32 matrix of shape (rows, columns) that `codes` stand for."""
    columns = codes.values.shape[1]
    return from_groups(values(to_groups(codes.values, fmt), codes.steps, fmt), columns)


def better_steps(best: Steps, least: Tensor, steps: Steps, errors: Tensor) -> tuple[Steps, Tensor]:
    """Per group the steps of smaller error, and that error; not a number is never smaller."""
    better = errors < least

    def chosen(new: Tensor | None, old: Tensor | None) -> Tensor | None:
        return old if new is None or old is None else torch.where(better, new, old)

    scales = torch.where(better, steps.scales, best.scales)
    return (
        Steps(scales, chosen(steps.zeros, best.zeros), chosen(steps.minimums, best.minimums)),
        torch.where(better, errors, least),
    )


def joined_steps(parts: Sequence[Steps]) -> Steps:
    """The steps of a matrix from those of its rows, part by part."""

    def joined(tensors: list[Tensor | None]) -> Tensor | None:
        present = [tensor for tensor in tensors if tensor is not None]
        return torch.cat(present) if present else None

    return Steps(
        torch.cat([part.scales for part in parts]),
        joined([part.zeros for part in parts]),
        joined([part.minimums for part in parts]),
    )


def to_groups(matrix: Tensor, fmt: Format) -> Tensor:
    """(rows, columns) to (rows, groups, group size).

    A ragged last group is filled up with its row's last number, which changes no range.
    """
    rows, columns = matrix.shape
    size = columns if fmt.group_size is None else fmt.group_size
    groups = fmt.groups_per_row(columns)
    missing = groups * size - columns
    if missing:
        matrix = torch.cat((matrix, matrix[:, -1:].expand(rows, missing)), dim=1)
    return matrix.reshape(rows, groups, size)


def from_groups(grouped: Tensor, columns: int) -> Tensor:
    """(rows, groups, group size) to (rows, columns), without what filled the last group up."""
    return grouped.reshape(grouped.shape[0], -1)[:, :columns].contiguous()


def as_codes(codes: Tensor, steps: Steps, columns: int) -> Codes:
    """Codes of shape (rows, groups, size), floats or not, and their steps, before packing."""
    return Codes(from_groups(codes.to(torch.uint8), columns), steps)


def is_weight(rows: int, columns: int, fmt: Format) -> Tensor:
    """Bool of shape (1 or rows, groups, size): False where a ragged group was filled up."""
    groups = fmt.groups_per_row(columns)
    size = columns if fmt.group_size is None else fmt.group_size
    flat = torch.arange(groups * size) < columns
    return flat.view(1, groups, size).expand(rows, groups, size)


def _zeros(steps: Steps, fmt: Format) -> Tensor | float:
    if steps.zeros is None:
        return float(1 << (fmt.bits - 1))
    return steps.zeros.to(torch.float32)[..., None]
