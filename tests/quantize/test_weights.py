"""Packed weights: exact bytes, exact grid points, bounded errors, never NaN."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mixq.errors import FormatError
from mixq.formats import Format, Grid, Method
from mixq.quantize.rounding import round_weights
from mixq.quantize.weights import pack_weight, round_trip, tensor_specs

HALF = torch.finfo(torch.float16)
SUBNORMAL = HALF.smallest_normal * HALF.eps  # smallest float16 above zero, 2^-24

FORMATS = [
    Format(16),
    *(
        Format(bits, group_size, grid, method)
        for bits, group_size, grid, method in itertools.product(
            (8, 4, 2), (None, 16, 100, 256), get_args(Grid), get_args(Method)
        )
    ),
]
GRIDS = [fmt for fmt in FORMATS if not fmt.is_float and fmt.group_size != 100]
every_format = pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
every_grid = pytest.mark.parametrize("fmt", GRIDS, ids=lambda fmt: fmt.name)
every_shape = pytest.mark.parametrize(
    "shape",
    [(1, 1), (1, 257), (33, 1), (7, 15), (5, 16), (3, 101), (2, 3, 5, 7), (4, 512)],
    ids=lambda shape: "x".join(map(str, shape)),
)


def random_weight(*shape: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[0], torch.Size(shape[1:]).numel()


def scale_of_each_weight(weight: Tensor, fmt: Format) -> Tensor:
    size = fmt.group_size or weight.shape[1]
    scales = round_weights(weight, fmt).scales.float()
    return scales.repeat_interleave(size, dim=1)[:, : weight.shape[1]]


def largest_error_in_scales(fmt: Format) -> float:
    """Half a step (a whole one where squant flips a code) and what rounded scales add.

    float16 rounds a normal scale by at most 2^-11 of it; on the zero-point grid the last of
    2^bits - 1 steps is off by as many times that, symmetric by half of it, which is less than
    half a step and stays within it. float32 arithmetic on codes up to 256 adds 2^-14.
    """
    step = 0.5 if fmt.method == "rtn" else 1.0
    drift = ((1 << fmt.bits) - 1) * 2**-11 if fmt.grid == "zero-point" else 0.0
    return step + drift + 2**-14


@every_shape
@every_format
def test_stored_bytes_are_those_of_the_format(fmt: Format, shape: tuple[int, ...]) -> None:
    rows, columns = matrix(shape)
    packed = pack_weight(random_weight(*shape), fmt, rows, columns)
    assert packed.stored_bytes == fmt.stored_bytes(rows, columns)
    stored = {part: (tuple(t.shape), t.dtype) for part, t in packed.tensors.items()}
    assert stored == tensor_specs(fmt, shape, rows, columns)
    assert packed.unpacked().shape == shape


@every_shape
@every_grid
def test_errors_are_within_the_derived_bound(fmt: Format, shape: tuple[int, ...]) -> None:
    weight = random_weight(*matrix(shape))
    back = round_trip(weight, fmt, *weight.shape)
    error = (back - weight).abs() / scale_of_each_weight(weight, fmt)
    assert float(error.max()) <= largest_error_in_scales(fmt)


@every_grid
@pytest.mark.parametrize("exponent", [-40, -30, -24, -20, -16, -12, -8, 0, 10], ids="2^{}".format)
def test_the_bound_holds_at_any_magnitude(fmt: Format, exponent: int) -> None:
    # Scales below 2^-14 are subnormal float16 numbers, with steps as coarse as they are.
    weight = random_weight(6, 300, scale=2.0**exponent)
    back = round_trip(weight, fmt, *weight.shape)
    error = (back - weight).abs() / scale_of_each_weight(weight, fmt)
    assert float(error.max()) <= largest_error_in_scales(fmt)


@st.composite
def matrices(draw: st.DrawFn) -> Tensor:
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 40))
    number = st.floats(-1e4, 1e4, width=32)
    values = draw(st.lists(number, min_size=rows * columns, max_size=rows * columns))
    return torch.tensor(values, dtype=torch.float32).view(rows, columns)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(matrices(), st.sampled_from(GRIDS))
def test_the_bound_holds_for_any_numbers(weight: Tensor, fmt: Format) -> None:
    back = round_trip(weight, fmt, *weight.shape)
    scales = scale_of_each_weight(weight, fmt)
    assert bool(((back - weight).abs() <= largest_error_in_scales(fmt) * scales).all())


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.data())
def test_grid_points_come_back_exactly(data: st.DataObject) -> None:
    # Any codes times any normal float16 scale whose products are exact in float32, as long as
    # each group holds the ends of the grid, which fix the scale.
    fmt = data.draw(st.sampled_from(GRIDS))
    rows = data.draw(st.integers(1, 3))
    groups = 1 if fmt.group_size is None else data.draw(st.integers(1, 3))
    size = fmt.group_size or 20
    seed = data.draw(st.integers(0, 2**20))
    generator = torch.Generator().manual_seed(seed)
    scales = (torch.rand(rows, groups, 1, generator=generator) + 0.01).half().float()
    low, high = (0, (1 << fmt.bits) - 1)
    zeros = torch.randint(low, high + 1, (rows, groups, 1), generator=generator)
    if fmt.grid == "symmetric":
        high = (1 << (fmt.bits - 1)) - 1
        low, zeros = -high, torch.zeros_like(zeros)
    codes = torch.randint(low, high + 1, (rows, groups, size), generator=generator)
    codes[..., 0], codes[..., -1] = low, high
    weight = ((codes - zeros) * scales).view(rows, -1)
    assert torch.equal(round_trip(weight, fmt, *weight.shape), weight)


@every_format
def test_zeros_stay_zeros(fmt: Format) -> None:
    weight = random_weight(6, 300)
    weight[1] = 0.0
    weight[2, :256] = 0.0
    weight[3, 150] = 0.0
    back = round_trip(weight, fmt, *weight.shape)
    if fmt.method == "rtn":  # a flip may move a zero
        assert bool((back[weight == 0] == 0).all())
    assert bool((back[1] == 0).all())


@every_format
@pytest.mark.parametrize("value", [1.0, -1.0, 0.0625, -448.0], ids=str)
def test_a_constant_is_as_exact_as_its_scale(fmt: Format, value: float) -> None:
    weight = torch.full((3, 300), value)
    back = round_trip(weight, fmt, 3, 300)
    # One rounding of the scale to float16 is all that happens to the end of the grid.
    torch.testing.assert_close(back, weight, rtol=2**-11, atol=0)


@every_grid
def test_an_outlier_costs_its_own_group_only(fmt: Format) -> None:
    calm = random_weight(2, 600)
    wild = calm.clone()
    wild[0, 0] = 1000.0
    first = fmt.group_size or 600
    changed = round_trip(wild, fmt, 2, 600) != round_trip(calm, fmt, 2, 600)
    assert bool(changed[0, :first].any())
    assert not bool(changed[0, first:].any())
    assert not bool(changed[1].any())


@every_grid
@pytest.mark.parametrize("size", [1e-45, 1e-40, 1e-30, 1e-9], ids=str)
def test_weights_below_any_scale_become_zero(fmt: Format, size: float) -> None:
    weight = torch.full((2, 20), size)
    weight[1] *= -1
    back = round_trip(weight, fmt, 2, 20)
    assert bool((back == 0).all())
    assert float(round_weights(weight, fmt).scales.min()) >= SUBNORMAL


@every_grid
@pytest.mark.parametrize("value", [1e38, 3e38, float("inf"), float("nan")], ids=str)
def test_a_scale_beyond_float16_is_refused(fmt: Format, value: float) -> None:
    weight = random_weight(2, 20)
    weight[1, 7] = value
    weight[0, 3] = -abs(value) if value < 2e38 else 0.0
    with pytest.raises(FormatError, match="float16") as refused:
        pack_weight(weight, fmt, 2, 20)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("grid", get_args(Grid))
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_the_largest_scale_is_float16s_own(bits: int, grid: Grid) -> None:
    # The last float32 number that float16 rounds down to its largest, and the first that it
    # does not; the scale of a single weight is the weight over the number of steps.
    fmt = Format(bits, None, grid)
    steps = (1 << (bits - 1)) - 1 if grid == "symmetric" else (1 << bits) - 1
    fits = torch.tensor([[(HALF.max + 15.0) * steps]])
    assert bool(round_trip(fits, fmt, 1, 1).isfinite().all())
    with pytest.raises(FormatError, match="scale"):
        pack_weight(torch.tensor([[(HALF.max + 17.0) * steps]]), fmt, 1, 1)


@pytest.mark.parametrize("value", [65520.0, 1e38, float("inf"), float("nan")], ids=str)
def test_16_bits_refuse_what_float16_cannot_hold(value: float) -> None:
    weight = torch.tensor([[1.0, value]])
    with pytest.raises(FormatError, match="does not fit into float16"):
        pack_weight(weight, Format(16), 1, 2)


def test_a_float16_weight_that_its_scale_lifts_beyond_float16_is_refused() -> None:
    # 65504 / 127 = 515.8 is stored as 516, and 127 x 516 = 65532 is infinite in float16.
    weight = torch.tensor([[HALF.max, 1.0]], dtype=torch.float16)
    with pytest.raises(FormatError, match="infinite"):
        pack_weight(weight, Format(8), 1, 2)
    assert bool(round_trip(weight.float(), Format(8), 1, 2).isfinite().all())


@every_format
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_other_dtypes_come_back_in_their_own(fmt: Format, dtype: torch.dtype) -> None:
    weight = random_weight(5, 40).to(dtype)
    back = round_trip(weight, fmt, 5, 40)
    assert back.dtype == dtype
    # Computed in float32 and rounded once: float64 weights are read as float32, too.
    assert torch.equal(back, round_trip(weight.float(), fmt, 5, 40).to(dtype))


def test_a_float64_beyond_float32_is_refused() -> None:
    with pytest.raises(FormatError):
        pack_weight(torch.full((1, 2), 1e300, dtype=torch.float64), Format(4), 1, 2)


@every_format
def test_the_layout_in_memory_does_not_matter(fmt: Format) -> None:
    weight = random_weight(40, 6, seed=3).T
    assert torch.equal(round_trip(weight, fmt, 6, 40), round_trip(weight.clone(), fmt, 6, 40))
    image = random_weight(4, 3, 5, 5)
    last = image.to(memory_format=torch.channels_last)
    assert torch.equal(round_trip(last, fmt, 4, 75), round_trip(image, fmt, 4, 75))


@every_format
def test_packing_leaves_the_weights_alone(fmt: Format) -> None:
    weight = torch.nn.Parameter(random_weight(3, 20))
    before = weight.detach().clone()
    packed = pack_weight(weight, fmt, 3, 20)
    assert torch.equal(weight, before)
    assert not packed.unpacked().requires_grad
    assert all(t.data_ptr() != weight.data_ptr() for t in packed.tensors.values())


def test_32_bits_are_not_packed() -> None:
    weight = random_weight(3, 4)
    assert torch.equal(round_trip(weight, Format(32), 3, 4), weight)
    assert tensor_specs(Format(32), (3, 4), 3, 4) == {}
    with pytest.raises(FormatError, match="32-bit"):
        pack_weight(weight, Format(32), 3, 4)


def test_a_float16_model_at_16_bits_does_not_share_memory() -> None:
    weight = random_weight(3, 4).half()
    packed = pack_weight(weight, Format(16), 3, 4)
    weight.zero_()
    assert bool((packed.unpacked() != 0).any())
