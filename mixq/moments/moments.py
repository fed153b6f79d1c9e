"""Moments: what is known of the inputs that meet the columns of one weight unit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mixq.errors import ModelError


@dataclass(frozen=True, eq=False, slots=True)
class Moments:
    """Means, over the positions of calibration data, of the inputs x that meet a unit's columns.

    A unit of R rows has G groups: row r meets the inputs of group r * G // R. There is one group
    unless the unit is a grouped convolution or its rows meet different inputs (experts, the
    projections of cross attention). The change E of the weights changes the unit's outputs by
    tr(E H E^T) per position, where H is `second`.

    Sums are taken in float32, products in blocks of N positions by one matrix product each: an
    entry of `second` is off by at most (N + blocks) * 2^-24 * sqrt(H_ii H_jj).

    Attributes:
        diagonal: mean of x^2, float32 of shape (groups, columns).
        mean: mean of x, float32 of shape (groups, columns).
        counts: positions that each group has met, int64 of shape (groups,); a group that met
            none (an expert that no sample reached) has moments of zero.
        second: mean of x x^T, float32 of shape (groups, columns, columns); None for a unit with
            more columns than were asked for, of which only the diagonal is kept.
    """

    diagonal: Tensor
    mean: Tensor
    counts: Tensor
    second: Tensor | None = None

    @property
    def groups(self) -> int:
        """Number of groups of rows that meet inputs of their own."""
        return self.diagonal.shape[0]

    @property
    def columns(self) -> int:
        """Columns of the unit's matrix."""
        return self.diagonal.shape[1]

    @property
    def count(self) -> int:
        """Positions that the group which met the fewest has met."""
        return int(self.counts.min())

    def of_rows(self, rows: int) -> Tensor:
        """The group of each of a unit's `rows` rows, int64 of shape (rows,)."""
        return torch.arange(rows, device=self.diagonal.device) * self.groups // rows


def combined(a: Moments, b: Moments) -> Moments:
    """The moments of both sets of positions together; `second` if both have it.

    Raises:
        ModelError: if their groups or columns differ.
    """
    if a.diagonal.shape != b.diagonal.shape:
        raise ModelError(
            f"moments of {a.groups} groups x {a.columns} columns cannot be combined with "
            f"{b.groups} x {b.columns}; combine those of one unit"
        )
    counts = a.counts + b.counts
    share = b.counts.double() / counts.clamp_min(1)

    def merged(left: Tensor, right: Tensor) -> Tensor:
        weight = share.to(left.dtype).reshape(-1, *(1,) * (left.dim() - 1))
        return torch.lerp(left, right, weight)

    has_both = a.second is not None and b.second is not None
    return Moments(
        diagonal=merged(a.diagonal, b.diagonal),
        mean=merged(a.mean, b.mean),
        counts=counts,
        second=merged(a.second, b.second) if has_both else None,  # type: ignore[arg-type]
    )
