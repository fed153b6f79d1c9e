"""Packed weights: exact bytes, exact grid points, bounded errors, never NaN."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mixq.errors import FormatError
from mixq.formats import DATA_FREE, GRIDS, Format
from mixq.quantize import weights as weights_module
from mixq.quantize.codes import Codes, dequantize
from mixq.quantize.rounding import round_weights
from mixq.quantize.weights import pack_codes, pack_weight, round_trip, tensor_specs

HALF = torch.finfo(torch.float16)
SUBNORMAL = HALF.smallest_normal * HALF.eps  # smallest float16 above zero, 2^-24

FORMATS = [
    Format(16),
    Format(16, grid="bfloat16"),
    *(
        Format(bits, group_size, grid, method)
        for bits in (8, 4, 2)
        for group_size, grid, method in itertools.product(
            (None, 16, 100, 256) if bits == 4 else (None, 16), GRIDS[bits], DATA_FREE
        )
    ),
]
INTEGERS = [fmt for fmt in FORMATS if not fmt.is_float and fmt.group_size != 100]
every_format = pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
every_grid = pytest.mark.parametrize("fmt", INTEGERS, ids=lambda fmt: fmt.name)
every_shape = pytest.mark.parametrize(
    "shape",
    [(1, 1), (1, 257), (33, 1), (7, 15), (5, 16), (3, 101), (2, 3, 5, 7), (4, 512)],
    ids=lambda shape: "x".join(map(str, shape)),
)


def random_weight(*shape: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[0], torch.Size(shape[1:]).numel()


def largest_errors(weight: Tensor, fmt: Format) -> Tensor:
    """Of each weight: half a step (a whole one where squant flips a code), and what rounding adds.

    float16 rounds a normal scale by at most 2^-11 of it, which n codes from the fixed end are off
    n times; where the fixed end is the middle of the grid and clipping is the only harm, n x 2^-11
    stays below half a step. The signed grid lacks one step at its shorter end. float32 arithmetic
    on codes up to 256 adds 2^-14 of a step, and an offset 2^-23 of the largest weight.
    """
    half = 1 << (fmt.bits - 1)
    step = 0.5 if fmt.method == "rtn" else 1.0
    if fmt.grid == "signed":
        step = 1 + half * 2**-11
    if fmt.grid in ("zero-point", "affine"):
        step += (2 * half - 1) * 2**-11
    size = fmt.group_size or weight.shape[1]
    scales = round_weights(weight, fmt).steps.scales.float().abs()
    of_each = scales.repeat_interleave(size, dim=1)[:, : weight.shape[1]]
    return (step + 2**-14) * of_each + 2**-23 * weight.abs().max()


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
    assert bool(((back - weight).abs() <= largest_errors(weight, fmt)).all())


@every_grid
@pytest.mark.parametrize("exponent", [-40, -30, -24, -20, -16, -12, -8, 0, 10], ids="2^{}".format)
def test_the_bound_holds_at_any_magnitude(fmt: Format, exponent: int) -> None:
    # Scales below 2^-14 are subnormal float16 numbers, with steps as coarse as they are.
    weight = random_weight(6, 300, scale=2.0**exponent)
    back = round_trip(weight, fmt, *weight.shape)
    assert bool(((back - weight).abs() <= largest_errors(weight, fmt)).all())


@st.composite
def matrices(draw: st.DrawFn) -> Tensor:
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 40))
    number = st.floats(-1e4, 1e4, width=32)
    values = draw(st.lists(number, min_size=rows * columns, max_size=rows * columns))
    return torch.tensor(values, dtype=torch.float32).view(rows, columns)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(matrices(), st.sampled_from(INTEGERS))
def test_the_bound_holds_for_any_numbers(weight: Tensor, fmt: Format) -> None:
    back = round_trip(weight, fmt, *weight.shape)
    assert bool(((back - weight).abs() <= largest_errors(weight, fmt)).all())


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.data())
def test_grid_points_come_back_exactly(data: st.DataObject) -> None:
    # Any codes times any float16 scale whose products and sums are exact in float32, as long as
    # each group holds the ends of the grid, which fix the scale.
    fmt = data.draw(st.sampled_from(INTEGERS))
    rows = data.draw(st.integers(1, 3))
    groups = 1 if fmt.group_size is None else data.draw(st.integers(1, 3))
    size = fmt.group_size or 20
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**20)))

    def drawn(low: int, high: int, size: int = 1) -> Tensor:
        return torch.randint(low, high + 1, (rows, groups, size), generator=generator)

    half = 1 << (fmt.bits - 1)
    low, high = {
        "symmetric": (1 - half, half - 1),
        "reduced": (-63, 63),
        "signed": (-half, half - 1),
        "zero-point": (0, 2 * half - 1),
        "affine": (0, 2 * half - 1),
    }[fmt.grid]
    scales = drawn(1, 2047) * 2.0**-10  # eleven bits, as float16 has
    if fmt.grid == "signed":
        scales = scales * (2 * drawn(0, 1) - 1)
    zeros = drawn(low, high) if fmt.grid == "zero-point" else 0
    minimums = drawn(-2047, 2047) * 2.0**-10 if fmt.grid == "affine" else 0.0
    codes = drawn(low, high, size)
    codes[..., 0], codes[..., -1] = low, high
    weight = ((codes - zeros) * scales + minimums).view(rows, -1)
    assert torch.equal(round_trip(weight, fmt, *weight.shape), weight)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.data())
def test_any_codes_survive_packing(data: st.DataObject) -> None:
    fmt = data.draw(st.sampled_from(INTEGERS))
    rows, columns = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 300))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**20)))
    steps = round_weights(torch.randn(rows, columns, generator=generator), fmt).steps
    values = torch.randint(0, 1 << fmt.bits, (rows, columns), generator=generator)
    codes = Codes(values.to(torch.uint8), steps)
    packed = pack_codes(codes, fmt, torch.empty(rows, columns))
    assert torch.equal(packed.unpacked(), dequantize(codes, fmt))
    assert packed.stored_bytes == fmt.stored_bytes(rows, columns)


def test_static_ranges_are_stored_and_counted() -> None:
    fmt = Format(8, activation="static")
    weight = random_weight(3, 5)
    scale, zero = torch.tensor([0.5]), torch.tensor([3], dtype=torch.uint8)
    packed = pack_codes(
        round_weights(weight, fmt), fmt, weight, input_scale=scale, input_zero=zero
    )
    assert packed.stored_bytes == fmt.stored_bytes(3, 5)
    stored = {part: (tuple(t.shape), t.dtype) for part, t in packed.tensors.items()}
    assert stored == tensor_specs(fmt, (3, 5), 3, 5)


@pytest.mark.parametrize(
    "name", ["w4-clip", "w4g64-hqq", "w2g64-affine-gptq", "w8a8-static", "w8-bc"]
)
def test_weights_alone_are_not_enough_for_a_method_that_sees_data(name: str) -> None:
    with pytest.raises(FormatError, match="calibration data"):
        pack_weight(random_weight(3, 20), Format.parse(name), 3, 20)


@every_format
def test_zeros_stay_zeros(fmt: Format) -> None:
    weight = random_weight(6, 300)
    weight[1] = 0.0
    weight[2, :256] = 0.0
    weight[3, 150] = 0.0
    back = round_trip(weight, fmt, *weight.shape)
    if fmt.method == "rtn" and fmt.grid != "affine":  # a flip may move a zero
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
    assert float(round_weights(weight, fmt).steps.scales.abs().min()) >= SUBNORMAL


@every_grid
@pytest.mark.parametrize("value", [1e38, 3e38, float("inf"), float("nan")], ids=str)
def test_a_scale_beyond_float16_is_refused(fmt: Format, value: float) -> None:
    weight = random_weight(2, 20)
    weight[1, 7] = value
    weight[0, 3] = -abs(value) if value < 2e38 else 0.0
    with pytest.raises(FormatError, match="float16") as refused:
        pack_weight(weight, fmt, 2, 20)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "fmt", [fmt for fmt in INTEGERS if fmt.group_size == 16], ids=lambda fmt: fmt.name
)
def test_the_largest_scale_is_float16s_own(fmt: Format) -> None:
    # The last float32 number that float16 rounds down to its largest, and the first that it
    # does not; the scale is the larger weight over the number of steps.
    half = 1 << (fmt.bits - 1)
    steps = {"symmetric": half - 1, "reduced": 63, "signed": half}.get(fmt.grid, 2 * half - 1)
    fits = torch.tensor([[0.0, (HALF.max + 15.0) * steps]])
    assert bool(round_trip(fits, fmt, 1, 2).isfinite().all())
    with pytest.raises(FormatError, match="scale"):
        pack_weight(torch.tensor([[0.0, (HALF.max + 17.0) * steps]]), fmt, 1, 2)


def test_a_minimum_beyond_float16_is_refused() -> None:
    weight = torch.tensor([[-70000.0, -69999.0]])
    with pytest.raises(FormatError, match="minimum"):
        pack_weight(weight, Format(4, grid="affine"), 1, 2)


@pytest.mark.parametrize("value", [65520.0, 1e38, float("inf"), float("nan")], ids=str)
def test_16_bits_refuse_what_float16_cannot_hold(value: float) -> None:
    weight = torch.tensor([[1.0, value]])
    with pytest.raises(FormatError, match="does not fit into float16"):
        pack_weight(weight, Format(16), 1, 2)


def test_bfloat16_holds_what_float16_cannot() -> None:
    weight = torch.tensor([[1.0, 2.0**127, -(2.0**-120), 1 + 2**-7, 1 + 2**-9]])
    back = round_trip(weight, Format(16, grid="bfloat16"), 1, 5)
    assert back.tolist() == [[1.0, 2.0**127, -(2.0**-120), 1 + 2**-7, 1.0]]  # eight bits
    with pytest.raises(FormatError, match="does not fit into bfloat16"):
        pack_weight(torch.tensor([[3.4e38]]), Format(16, grid="bfloat16"), 1, 1)


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


@every_format
@pytest.mark.parametrize("chunk", [1, 40, 100], ids=lambda count: f"{count}-at-once")
def test_weights_unpacked_in_parts_are_the_same(
    fmt: Format, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = pack_weight(random_weight(7, 33).bfloat16(), fmt, 7, 33)
    expected = packed.unpacked()
    monkeypatch.setattr(weights_module, "CHUNK", chunk)
    assert torch.equal(packed.unpacked(), expected)
    assert packed.unpacked().dtype == expected.dtype
