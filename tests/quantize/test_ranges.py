"""Steps from ranges: what float16 does to scales and minimums."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixq.formats import Format
from mixq.quantize.codes import better_steps
from mixq.quantize.ranges import range_steps, rounded_scales

law = settings(derandomize=True, deadline=None, max_examples=200)
HALF = torch.finfo(torch.float16)
SUBNORMAL = HALF.smallest_normal * HALF.eps


@law
@given(st.floats(-6e4, 6e4, width=32), st.floats(0, 1e4, width=32))
def test_a_minimum_is_the_largest_float16_not_above_the_least_weight(
    low: float, span: float
) -> None:
    ends = torch.tensor([[low]]), torch.tensor([[low]]) + span
    minimum = range_steps(*ends, Format(4, grid="affine")).minimums
    assert minimum is not None
    assert float(minimum) <= low
    above = torch.nextafter(minimum, torch.tensor(torch.inf, dtype=torch.float16))
    assert float(above) > low


@law
@given(st.floats(-6e4, 6e4, width=32))
def test_scales_are_never_zero_and_keep_their_sign(scale: float) -> None:
    stored = rounded_scales(torch.tensor([scale]))
    assert stored.dtype == torch.float16
    if scale == 0:
        assert stored.tolist() == [1.0]
    else:
        assert (float(stored) > 0) == (scale > 0)
        assert abs(float(stored)) >= SUBNORMAL
    if abs(scale) >= HALF.smallest_normal:
        assert stored.tolist() == torch.tensor([scale]).half().tolist()
    elif scale:
        assert abs(scale) <= abs(float(stored)) <= abs(scale) + SUBNORMAL


@pytest.mark.parametrize("scale", [1e5, -1e5, torch.inf, torch.nan], ids=str)
def test_scales_beyond_float16_are_not_finite(scale: float) -> None:
    assert not bool(rounded_scales(torch.tensor([scale])).isfinite().any())


def test_errors_that_are_not_numbers_are_never_better() -> None:
    fmt = Format(4, grid="affine")
    old = range_steps(torch.zeros(1, 3), torch.ones(1, 3), fmt)
    new = range_steps(torch.zeros(1, 3), torch.full((1, 3), 2.0), fmt)
    errors = torch.tensor([[torch.nan, 0.5, 1.0]])
    best, least = better_steps(old, torch.ones(1, 3), new, errors)
    assert least.tolist() == [[1.0, 0.5, 1.0]]
    picked = torch.tensor([[False, True, False]])
    assert torch.equal(best.scales, torch.where(picked, new.scales, old.scales))
