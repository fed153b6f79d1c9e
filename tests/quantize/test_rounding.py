"""Rounding by every method: dispatch, layer errors, bias shifts, and input that is degenerate."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from mixq.errors import FormatError
from mixq.formats import GRIDS, Format, Grid, Method
from mixq.quantize.codes import code_range, dequantize
from mixq.quantize.gptq import prepare
from mixq.quantize.rounding import bias_shift, input_error, round_weights
from mixq.quantize.weights import pack_codes

FORMATS = [
    Format(bits, group_size, grid, method)
    for bits in (8, 4, 2)
    for grid in GRIDS[bits]
    for method in get_args(Method)
    for group_size in ((None, 16) if bits == 4 else (16,))
]
every_format = pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
every_method = pytest.mark.parametrize("method", get_args(Method))


def random_weight(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def moments(columns: int, samples: int = 200, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, columns, generator=generator) + 0.5
    return inputs.T @ inputs / samples


def with_outlier(weight: Tensor) -> Tensor:
    weight[0, 0] = 1e4
    return weight


WEIGHTS = {
    "ordinary": random_weight(4, 40),
    "all zero": torch.zeros(4, 40),
    "a zero row": random_weight(4, 40) * torch.tensor([[1.0], [0.0], [1.0], [0.0]]),
    "constant rows": torch.tensor([[1.0], [-0.3], [0.0625], [800.0]]).expand(4, 40).contiguous(),
    "one column": random_weight(4, 1),
    "one weight": random_weight(1, 1),
    "an outlier": with_outlier(random_weight(4, 40)),
    "below float16": random_weight(4, 40) * 1e-9,
    "subnormal": torch.full((4, 40), 1e-45),
    "far from zero": random_weight(4, 40) * 1e-3 + 1000.0,
    "two values": random_weight(4, 40).sign(),
    "bfloat16": random_weight(4, 40).bfloat16(),
    "float16": random_weight(4, 40).half(),
    "float64": random_weight(4, 40).double(),
}


@every_format
@pytest.mark.parametrize("case", WEIGHTS)
def test_degenerate_weights_give_codes_in_range_and_finite_weights(fmt: Format, case: str) -> None:
    weight = WEIGHTS[case]
    codes = round_weights(weight, fmt, moments(weight.shape[1]))
    assert codes.values.shape == weight.shape
    assert codes.values.dtype == torch.uint8
    low, high = code_range(fmt)
    assert low <= int(codes.values.min()) <= int(codes.values.max()) <= high
    back = dequantize(codes, fmt)
    assert bool(back.isfinite().all())
    assert pack_codes(codes, fmt, weight).stored_bytes == fmt.stored_bytes(*weight.shape)
    zero = (weight == 0).all(1)
    assert bool((back[zero] == 0).all())
    constant = (weight == weight[:, :1]).all(1)
    if fmt.method not in ("squant", "gptq"):  # which move some codes to make up for others
        torch.testing.assert_close(
            back[constant], weight[constant].float(), rtol=2**-10, atol=2**-24
        )


MOMENTS = {
    "none seen": torch.zeros(40, 40),
    "one sample": moments(40, samples=1),
    "fewer samples than columns": moments(40, samples=10),
    "columns alike": torch.ones(40, 40),
    "one column seen": torch.zeros(40, 40).index_put(
        (torch.tensor([3]), torch.tensor([3])), torch.tensor(5.0)
    ),
    "tiny": moments(40) * 1e-30,
    "huge": moments(40) * 1e30,
    "bfloat16": moments(40).bfloat16(),
}


@pytest.mark.parametrize(
    "fmt", [fmt for fmt in FORMATS if fmt.method in ("clip", "gptq")], ids=lambda fmt: fmt.name
)
@pytest.mark.parametrize("case", MOMENTS)
def test_degenerate_moments_give_finite_weights(fmt: Format, case: str) -> None:
    weight = random_weight(4, 40)
    back = dequantize(round_weights(weight, fmt, MOMENTS[case]), fmt)
    assert float((back - weight).square().mean()) < float(weight.square().mean())


@every_method
@pytest.mark.parametrize("grid", GRIDS[8])
def test_a_scale_beyond_float16_is_refused_by_every_method(grid: Grid, method: Method) -> None:
    weight = random_weight(2, 20)
    weight[1, 7] = 1e38
    with pytest.raises(FormatError, match="float16"):
        round_weights(weight, Format(8, None, grid, method), moments(20))


@every_method
@pytest.mark.parametrize("value", [torch.nan, torch.inf], ids=str)
@pytest.mark.parametrize("grid", GRIDS[4])
def test_weights_that_are_not_finite_are_refused(grid: Grid, method: Method, value: float) -> None:
    weight = random_weight(2, 20)
    weight[1, 7] = value
    with pytest.raises(FormatError, match="float16"):
        round_weights(weight, Format(4, None, grid, method), moments(20))


@every_format
def test_the_same_input_gives_the_same_codes(fmt: Format) -> None:
    weight, second = random_weight(6, 50), moments(50)
    first, again = (round_weights(weight.clone(), fmt, second.clone()) for _ in range(2))
    assert torch.equal(first.values, again.values)
    assert torch.equal(first.steps.scales, again.steps.scales)


@every_format
def test_the_layout_in_memory_and_the_arguments_do_not_matter(fmt: Format) -> None:
    weight, second = random_weight(50, 6).T, moments(50)
    kept = (weight.clone(), second.clone())
    scattered = round_weights(weight, fmt, second[None])
    plain = round_weights(weight.contiguous(), fmt, second, factor=prepare(second))
    assert torch.equal(scattered.values, plain.values)
    assert torch.equal(weight, kept[0])
    assert torch.equal(second, kept[1])


@every_format
def test_moments_matter_to_those_methods_only_that_weigh_by_them(fmt: Format) -> None:
    weight = random_weight(32, 48)
    one, other = (round_weights(weight, fmt, moments(48, 200, seed)) for seed in (1, 2))
    blind = fmt.method in ("rtn", "squant", "hqq")
    assert torch.equal(one.values, other.values) == blind
    if fmt.method != "gptq":
        by_diagonal = round_weights(weight, fmt, diagonal=moments(48, 200, 1).diagonal())
        assert torch.equal(one.values, by_diagonal.values)


def test_gptq_without_moments_is_refused_in_one_line() -> None:
    with pytest.raises(FormatError, match="w4-gptq is rounded by the inputs'") as refused:
        round_weights(random_weight(2, 20), Format(4, method="gptq"), diagonal=torch.ones(20))
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("shape", [(9, 9), (4, 8, 8), (1, 8, 9), (0, 8, 8), (1, 1, 8, 8)], ids=str)
def test_moments_of_other_weights_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(FormatError, match="6 x 8 weights"):
        round_weights(random_weight(6, 8), Format(4, method="gptq"), torch.ones(shape))


@pytest.mark.parametrize("blocks", [1, 3], ids="{} blocks".format)
def test_the_layer_error_is_the_mean_squared_error_of_its_outputs(blocks: int) -> None:
    generator = torch.Generator().manual_seed(2)
    weight, rounded = random_weight(6, 10), random_weight(6, 10, seed=3)
    inputs = torch.randn(blocks, 50, 10, generator=generator)
    second = inputs.mT @ inputs / 50
    rows = 6 // blocks
    outputs = torch.cat(
        [
            inputs[block].double()
            @ (weight - rounded)[block * rows : (block + 1) * rows].T.double()
            for block in range(blocks)
        ],
        dim=1,
    )
    exact = float(outputs.square().mean())
    assert input_error(weight, rounded, second) == pytest.approx(exact, rel=1e-5)
    diagonal = second.diagonal(dim1=1, dim2=2)
    independent = input_error(weight, rounded, torch.diag_embed(diagonal))
    assert input_error(weight, rounded, diagonal=diagonal) == pytest.approx(independent, rel=1e-12)
    assert input_error(weight, weight, second) == 0.0


def test_without_moments_every_weight_counts_the_same() -> None:
    weight, rounded = random_weight(6, 10), random_weight(6, 10, seed=3)
    exact = float((weight - rounded).double().square().sum()) / 6
    assert input_error(weight, rounded) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("blocks", [1, 2, 6], ids="{} blocks".format)
def test_the_bias_shift_makes_the_mean_output_the_originals(blocks: int) -> None:
    fmt = Format(2, None, "affine")
    weight = random_weight(6, 10)
    rounded = dequantize(round_weights(weight, fmt), fmt)
    inputs = torch.randn(blocks, 50, 10, generator=torch.Generator().manual_seed(4)) + 1.0
    shift = bias_shift(weight, rounded, inputs.mean(1))
    assert shift.shape == (6,)
    of_row = inputs.repeat_interleave(6 // blocks, dim=0)  # (6, 50, 10)
    original = torch.einsum("rsc,rc->rs", of_row, weight).mean(1)
    corrected = torch.einsum("rsc,rc->rs", of_row, rounded).mean(1) + shift
    torch.testing.assert_close(corrected, original, rtol=0, atol=1e-5)
    assert float(shift.abs().max()) > 0.1
