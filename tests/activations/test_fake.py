"""Fake quantization: degenerate input as a table, and the laws of rounding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mixq.activations.fake import (
    Granularity,
    fake_blocks,
    fake_dynamic,
    fake_static,
    input_codes,
    input_steps,
)
from mixq.activations.input_range import InputRange
from mixq.errors import CalibrationError

NAN, INF = float("nan"), float("inf")
LAWS = settings(derandomize=True, deadline=None, max_examples=200)
EPS = torch.finfo(torch.float32).eps

finite = st.floats(-(2.0**100), 2.0**100, width=32)
ordinary = st.floats(-1024, 1024, width=32)
tensors = st.lists(finite, min_size=1, max_size=40).map(torch.tensor)


def steps_of(x: Tensor) -> tuple[Tensor, Tensor]:
    return input_steps(x.amin(), x.amax())


UNCHANGED = {
    "all-zero": [0.0, 0.0, -0.0],
    "constant": [2.5, 2.5],
    "constant-negative": [-0.1, -0.1],
    "one-element": [7.0],
    "one-zero": [0.0],
    "empty": [],
    "grid": [0.0, 1.0, 2.0, 255.0],
    "grid-with-zero-point": [-55.0, 0.0, 200.0],
    "largest": [3.4028234663852886e38, 0.0],
}


@pytest.mark.parametrize("numbers", UNCHANGED.values(), ids=UNCHANGED)
@pytest.mark.parametrize("per", ["tensor", "token"])
def test_numbers_on_the_grid_stay(numbers: list[float], per: Granularity) -> None:
    x = torch.tensor(numbers)
    torch.testing.assert_close(fake_dynamic(x, per), x, rtol=2 * EPS, atol=0)


@pytest.mark.parametrize("per", ["tensor", "token"])
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 5)], ids=str)
def test_empty_stays_empty(shape: tuple[int, ...], per: Granularity) -> None:
    assert fake_dynamic(torch.empty(shape), per).shape == shape
    assert fake_blocks(torch.empty(shape), 16).shape == shape


def test_a_single_number_without_dimensions() -> None:
    for per in ("tensor", "token"):
        torch.testing.assert_close(fake_dynamic(torch.tensor(-3.0), per), torch.tensor(-3.0))


# Half a step: 0.5, 1.5 and 2.5 go to the even neighbour.
def test_half_goes_to_even() -> None:
    x = torch.tensor([0.0, 0.5, 1.5, 2.5, 255.0])
    assert fake_dynamic(x).tolist() == [0, 0, 2, 2, 255]


def test_blocks_have_codes_up_to_127() -> None:
    x = torch.tensor([-127.0, 2.5, 3.5, 4.2, 126.0] + [0.0] * 11 + [254.0, 5.0])
    expected = [-127.0, 2.0, 4.0, 4.0, 126.0] + [0.0] * 11 + [254.0, 4.0]
    torch.testing.assert_close(fake_blocks(x, 16), torch.tensor(expected), rtol=2 * EPS, atol=0)


@pytest.mark.parametrize("bad", [NAN, INF, -INF], ids=str)
def test_nan_and_infinity_are_never_hidden(bad: float) -> None:
    x = torch.tensor([[1.0, bad, -1.0], [1.0, 2.0, 3.0]])
    scale, zero = InputRange(-1.0, 1.0).steps()
    static = fake_static(x, scale, zero)
    assert not static[0, 1].isfinite()
    assert static.isfinite().sum() == 5  # the others are what they were
    assert not fake_dynamic(x).isfinite().any()  # the range is the tensor's
    for rowwise in (fake_dynamic(x, "token"), fake_blocks(x, 16)):
        assert not rowwise[0, 1].isfinite()
        assert rowwise[1].isfinite().all()


def test_too_wide_for_float32_is_not_hidden() -> None:
    assert not fake_dynamic(torch.tensor([3e38, -3e38])).isfinite().any()


@pytest.mark.parametrize("tiny", [1e-45, 1e-44, 1e-40, 1e-38], ids=str)
def test_subnormal_ranges_give_numbers(tiny: float) -> None:
    x = torch.tensor([tiny, 0.0, -tiny])
    for found in (fake_dynamic(x), fake_dynamic(x, "token"), fake_blocks(x, 16)):
        assert (found - x).abs().max() <= tiny
        assert found[1] == 0


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64], ids=lambda dtype: str(dtype)[6:]
)
@pytest.mark.parametrize("per", ["tensor", "token", "block"])
def test_other_dtypes_round_as_float32_does(dtype: torch.dtype, per: str) -> None:
    def fake(x: Tensor) -> Tensor:
        if per == "block":
            return fake_blocks(x, 16)
        return fake_dynamic(x, "token" if per == "token" else "tensor")

    x = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = fake(x)
    assert found.dtype == dtype
    assert torch.equal(found, fake(x.float()).to(dtype))


def test_the_input_is_not_written_to() -> None:
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    kept = x.clone()
    fake_dynamic(x)
    fake_dynamic(x, "token")
    fake_blocks(x, 16)
    fake_static(x, *InputRange(-1.0, 1.0).steps())
    assert torch.equal(x, kept)


def test_rows_and_blocks_do_not_see_each_other() -> None:
    x = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))
    by_row = torch.stack([fake_dynamic(row) for row in x])
    assert torch.equal(fake_dynamic(x, "token"), by_row)
    by_block = torch.cat([fake_blocks(part, 16) for part in x.split(16, dim=1)], dim=1)
    assert torch.equal(fake_blocks(x, 16), by_block)


@given(tensors)
@LAWS
def test_error_is_at_most_half_a_scale(x: Tensor) -> None:
    scale, _ = steps_of(x)
    # 2.5: the zero point is rounded to a whole code and cut at 255, which can move an end out of
    # the range by half a scale; quotient and product are rounded to 24 bits each, at most 255.5
    # codes from zero, and so is the scale.
    slack = scale.double() * 255.5 * 2.5 * EPS
    error = (fake_dynamic(x).double() - x.double()).abs()
    assert bool((error <= scale.double() + slack).all())
    low = -zero_of(x) * scale.double()
    high = (255 - zero_of(x)) * scale.double()
    inside = (x.double() >= low) & (x.double() <= high)
    assert bool((error[inside] <= scale.double() / 2 + slack).all())


def zero_of(x: Tensor) -> Tensor:
    return steps_of(x)[1].double()


@given(tensors)
@LAWS
def test_block_error_is_at_most_half_a_scale(x: Tensor) -> None:
    largest = x.abs().amax().double()
    error = (fake_blocks(x, 64).double() - x.double()).abs()
    if largest < 2.0**-100:  # float32 has no reciprocal, or a coarse one
        assert bool((error <= largest).all())
    else:  # codes lie within 127; reciprocal, scale and two products are rounded
        assert bool((error <= largest / 127 * (0.5 + 127 * 4 * EPS)).all())


@given(tensors)
@LAWS
def test_zero_stays_zero(x: Tensor) -> None:
    x = torch.cat((x, torch.zeros(1)))
    assert fake_dynamic(x)[-1] == 0
    assert fake_dynamic(x, "token")[-1] == 0
    assert fake_blocks(x, 16)[-1] == 0


@given(tensors)
@LAWS
def test_static_with_its_own_range_is_dynamic(x: Tensor) -> None:
    own = InputRange.covering(float(x.amin()), float(x.amax()))
    assert torch.equal(fake_static(x, *own.steps()), fake_dynamic(x))


@given(tensors)
@LAWS
def test_codes_are_whole_numbers_of_uint8(x: Tensor) -> None:
    codes = input_codes(x, *steps_of(x))
    assert torch.equal(codes, codes.round())
    assert 0 <= codes.min() <= codes.max() <= 255


@given(st.lists(ordinary, min_size=1, max_size=20).map(torch.tensor), ordinary, ordinary)
@LAWS
def test_static_is_idempotent_and_monotone(x: Tensor, low: float, high: float) -> None:
    scale, zero = InputRange.covering(min(low, high), max(low, high)).steps()
    once = fake_static(x, scale, zero)
    assert torch.equal(fake_static(once, scale, zero), once)
    assert torch.equal(fake_static(x.sort().values, scale, zero), once.sort().values)


REFUSED = {
    "nan": (NAN, 1.0, "finite"),
    "infinite": (0.0, INF, "finite"),
    "too-wide": (-3e38, 3e38, "finite"),
    "without-zero": (1.0, 2.0, "must hold zero"),
    "reversed": (1.0, -1.0, "must hold zero"),
}


@pytest.mark.parametrize(("low", "high", "reason"), REFUSED.values(), ids=REFUSED)
def test_ranges_that_cannot_be(low: float, high: float, reason: str) -> None:
    with pytest.raises(CalibrationError, match=reason) as caught:
        InputRange(low, high)
    assert "\n" not in str(caught.value)


def test_what_a_range_stores() -> None:
    found = InputRange.covering(0.5, 2.55).tensors()
    assert {name: (t.dtype, tuple(t.shape)) for name, t in found.items()} == {
        "input_scale": (torch.float32, (1,)),
        "input_zero": (torch.uint8, (1,)),
    }
    assert found["input_zero"].item() == 0
    torch.testing.assert_close(found["input_scale"], torch.tensor([0.01]))
    assert InputRange(0.0, 0.0).steps() == (torch.ones(1), torch.zeros(1, dtype=torch.uint8))
