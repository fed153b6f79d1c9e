"""Sums over positions of the inputs that some rows have met."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mixq.errors import ModelError
from mixq.moments.inputs import Inputs

TILE = 512
"""Columns of one strip of a symmetric product, of which only one half is computed."""


@dataclass(frozen=True, eq=False, slots=True)
class Sums:
    """Sums over positions; nobody writes to them once they are made, so that units share them.

    Attributes:
        products: of x y^T, float32 of shape (groups, columns, columns), where y is x itself or
            what another run of the model has in its place; or of x^2 alone, float64 of shape
            (groups, columns).
        total: of x, float64 of shape (groups, columns).
        count: number of positions.
    """

    products: Tensor
    total: Tensor
    count: int

    @property
    def groups(self) -> int:
        """Number of groups of rows that meet inputs of their own."""
        return self.total.shape[0]

    def plus(self, other: Sums) -> Sums:
        """The sums over both sets of positions."""
        return Sums(
            self.products + other.products, self.total + other.total, self.count + other.count
        )


def sums_of(inputs: Inputs, unit: str, *, is_diagonal: bool) -> Sums | None:
    """The sums over one operation's inputs; None if there is no position.

    Raises:
        ModelError: if they are not finite, naming the unit that meets them.
    """
    found: Sums | None = None
    for block in inputs.blocks():
        if found is None:
            found = _zeros(block, is_diagonal=is_diagonal)
        if is_diagonal:
            found.products.add_(block.square().sum(1, dtype=torch.float64))
        else:
            _add_upper(found.products, block)
        # Off the diagonal, no sum is larger than on it (Cauchy and Schwarz).
        power = found.products if is_diagonal else found.products.diagonal(dim1=1, dim2=2)
        if not bool(power.isfinite().all()):
            what = "NaN or infinite" if not bool(block.isfinite().all()) else "too large to square"
            raise ModelError(
                f"inputs that meet {unit} are {what}, so that they have no second moments; "
                "repair the model or the calibration data"
            )
        found = _counted(found, block)
    if found is None or found.count == 0:
        return None
    if not is_diagonal:
        _mirror(found.products)
    return found


def cross_sums_of(inputs: Inputs, others: Inputs, unit: str) -> Sums | None:
    """The sums of x y^T over one operation's inputs x and those of another run, y.

    Raises:
        ModelError: if the runs have different positions.
    """
    if inputs.tensor.shape != others.tensor.shape:
        raise ModelError(
            f"inputs that meet {unit} have shape {tuple(inputs.tensor.shape)} in the original and "
            f"{tuple(others.tensor.shape)} in the changed model, so that they cannot be compared; "
            "round this unit without the original's inputs"
        )
    found: Sums | None = None
    for left, right in zip(inputs.blocks(), others.blocks(), strict=True):
        if found is None:
            found = _zeros(left, is_diagonal=False)
        found.products.baddbmm_(left.mT, right)
        found = _counted(found, left)
    return found if found is not None and found.count else None


def _zeros(block: Tensor, *, is_diagonal: bool) -> Sums:
    """Sums over no position yet, for blocks of shape (groups, positions, columns)."""
    groups, _, columns = block.shape
    return Sums(
        products=block.new_zeros(groups, columns, dtype=torch.float64)
        if is_diagonal
        else block.new_zeros(groups, columns, columns),
        total=block.new_zeros(groups, columns, dtype=torch.float64),
        count=0,
    )


def _counted(sums: Sums, block: Tensor) -> Sums:
    # A product, because torch sums float32 into float64 several times slower.
    ones = block.new_ones(block.shape[0], 1, block.shape[1])
    sums.total.add_(torch.bmm(ones, block).squeeze(1))
    return replace(sums, count=sums.count + block.shape[1])


def _add_upper(products: Tensor, block: Tensor) -> None:
    """Add block^T block to `products`, at least above the diagonal."""
    for low in range(0, products.shape[1], TILE):
        strip = products[:, low : low + TILE, low:]
        strip.baddbmm_(block[:, :, low : low + TILE].mT, block[:, :, low:])


def _mirror(products: Tensor) -> None:
    """Make `products` symmetric, copying what is above the diagonal to below it."""
    for low in range(0, products.shape[1], TILE):
        high = low + TILE
        square = products[:, low:high, low:high]
        square.copy_(square.triu() + square.triu(1).mT)
        products[:, high:, low:high] = products[:, low:high, high:].mT
