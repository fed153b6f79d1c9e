"""Rounding: moments that do not fit, layer errors and bias shifts; methods: test_methods.py."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mixq.errors import FormatError
from mixq.formats import Format
from mixq.quantize.codes import dequantize
from mixq.quantize.rounding import bias_shift, input_error, round_weights


def random_weight(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


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
