"""Half-quadratic steps: smaller p-norm errors, and outliers that pull at nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mixq.formats import GRIDS, Format, Grid
from mixq.quantize import hqq
from mixq.quantize.codes import Steps, dequantize, nearest, to_groups, values
from mixq.quantize.hqq import P, hqq_steps
from mixq.quantize.ranges import range_steps
from mixq.quantize.rounding import round_weights

FORMATS = [
    Format(bits, group_size, grid, "hqq")
    for bits in (8, 4, 2)
    for grid in GRIDS[bits]
    for group_size in (None, 16)
]
every_format = pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)


def whole_range(grouped: Tensor, fmt: Format) -> Steps:
    return range_steps(grouped.amin(2), grouped.amax(2), fmt)


def p_norms(grouped: Tensor, steps: Steps, fmt: Format) -> Tensor:
    errors = grouped - values(nearest(grouped, steps, fmt), steps, fmt)
    return errors.double().abs().pow(P).sum(2)


@every_format
def test_p_norms_fall_and_never_rise(fmt: Format) -> None:
    generator = torch.Generator().manual_seed(6)
    weight = torch.randn(40, 48, generator=generator).pow(3)
    grouped = to_groups(weight, fmt)
    before = p_norms(grouped, whole_range(grouped, fmt), fmt)
    after = p_norms(grouped, hqq_steps(weight, fmt), fmt)
    assert bool((after <= before * (1 + 1e-5)).all())
    assert float(after.sum()) < 0.999 * float(before.sum())


@pytest.mark.parametrize("grid", ["symmetric", "signed", "zero-point", "affine"])
def test_a_power_of_two_changes_nothing_but_the_steps(grid: Grid) -> None:
    fmt = Format(4, 16, grid, "hqq")
    weight = torch.randn(20, 48, generator=torch.Generator().manual_seed(7))
    small = round_weights(weight / 64, fmt)
    large = round_weights(weight, fmt)
    assert torch.equal(small.values, large.values)
    assert torch.equal(dequantize(small, fmt) * 64, dequantize(large, fmt))


@pytest.mark.parametrize("grid", GRIDS[4])
def test_splitting_outliers_off_beats_least_squares(
    grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    fmt = Format(4, None, grid, "hqq")
    weight = torch.randn(100, 48, generator=torch.Generator().manual_seed(8)).pow(3)
    grouped = to_groups(weight, fmt)
    split = p_norms(grouped, hqq_steps(weight, fmt), fmt)
    monkeypatch.setattr(hqq, "BETA", 1e-9)  # no error is large enough to be an outlier
    plain = p_norms(grouped, hqq_steps(weight, fmt), fmt)
    assert float(split.sum()) < 0.999 * float(plain.sum())


def test_an_offset_that_an_outlier_hides_is_found() -> None:
    # All weights but one lie on a grid that the range misses by a third of a step; the outlier
    # between two codes does not matter to the p-norm.
    fmt = Format(4, None, "affine", "hqq")
    weight = torch.arange(16.0).repeat(1, 4) + 0.0
    weight[0, 0] = -0.4
    weight[0, 40] = 14.6
    on_grid = torch.ones(64, dtype=torch.bool)
    on_grid[[0, 40]] = False
    back = dequantize(round_weights(weight, fmt), fmt)
    plain = Format(4, None, "affine")
    rtn = dequantize(round_weights(weight, plain), plain)
    error, before = ((b - weight)[0, on_grid].abs().mean() for b in (back, rtn))
    assert float(error) < 0.3 * float(before)
