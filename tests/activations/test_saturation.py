"""Saturation: the reference against plain arithmetic, and proofs of which weights are safe."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mixq.activations.saturation import (
    SaturationWarning,
    check_saturation,
    kernel_order,
    may_saturate,
    saturates,
    saturating_matmul,
    saturating_share,
)
from mixq.errors import FormatError
from mixq.formats import Format
from mixq.quantize.codes import code_range

LAWS = settings(derandomize=True, deadline=None, max_examples=60)


def exact(x: Tensor, weight: Tensor) -> Tensor:
    return (x.long() @ weight.long().T).int()


@st.composite
def operands(draw: st.DrawFn, limit: int) -> tuple[Tensor, Tensor]:
    """uint8 (m, k) and int8 (n, k) with weights within -limit..limit."""
    m, n, k = (draw(st.integers(1, 7)) for _ in range(3))
    activations = st.sampled_from([0, 1, 128, 254, 255])
    weights = st.integers(-limit, limit)
    x = draw(st.lists(activations, min_size=m * k, max_size=m * k))
    w = draw(st.lists(weights, min_size=n * k, max_size=n * k))
    x_u8 = torch.tensor(x, dtype=torch.uint8).view(m, k)
    return x_u8, torch.tensor(w, dtype=torch.int8).view(n, k)


@given(operands(127))
@LAWS
def test_the_reference_is_the_instruction_written_out(pair: tuple[Tensor, Tensor]) -> None:
    x, weight = pair
    found = saturating_matmul(x, weight)
    for row, column in itertools.product(range(x.shape[0]), range(weight.shape[0])):
        a, b = x[row].tolist(), weight[column].tolist()
        products = [p * q for p, q in zip(a, b, strict=True)] + [0] * (len(a) % 2)
        pairs = zip(products[::2], products[1::2], strict=True)
        assert found[row, column] == sum(max(-32768, min(32767, p + q)) for p, q in pairs)


@given(operands(64))
@LAWS
def test_weights_within_64_are_exact(pair: tuple[Tensor, Tensor]) -> None:
    x, weight = pair
    assert not saturates(weight)
    assert torch.equal(saturating_matmul(x, weight), exact(x, weight))


@given(operands(127))
@LAWS
def test_safe_means_exact(pair: tuple[Tensor, Tensor]) -> None:
    x, weight = pair
    if not saturates(weight):
        assert torch.equal(saturating_matmul(x, weight), exact(x, weight))


ALL = torch.cartesian_prod(torch.arange(-128, 128), torch.arange(-128, 128))


@pytest.mark.parametrize("x_max", [255, 200, 127])
def test_every_pair_of_weights(x_max: int) -> None:
    # A sum of two products is linear in each activation, so that its extremes are at the corners.
    corners = torch.tensor(list(itertools.product((0, x_max), repeat=2)))
    sums = ALL @ corners.T
    passes = ((sums > 32767) | (sums < -32768)).any(1)
    flagged = torch.tensor([saturates(pair[None].to(torch.int8), x_max) for pair in ALL[::37]])
    assert torch.equal(flagged, passes[::37])
    assert saturating_share(ALL.to(torch.int8), x_max) == passes.double().mean().item()
    assert bool(passes.any()) == (x_max > 127)


def test_the_threshold_is_129() -> None:
    assert not saturates(torch.tensor([[64, 64], [-64, -64], [127, -128]], dtype=torch.int8))
    assert saturates(torch.tensor([[64, 65]], dtype=torch.int8))
    assert saturates(torch.tensor([[-64, -65]], dtype=torch.int8))
    assert not saturates(torch.tensor([[0, 127, 127, 0]], dtype=torch.int8))  # not a pair


FORMATS = {
    "w8a8-dynamic": True,
    "w8a8g32-static": True,
    "w8a8-signed-dynamic": True,
    "w8a8-reduced-dynamic": False,
    "w8a8-zp-dynamic": False,
    "w4a8g32-dynamic": False,
    "w2a8g32-signed-static": False,
    "w8": False,
    "w32": False,
}


@pytest.mark.parametrize(("name", "expected"), FORMATS.items(), ids=FORMATS)
def test_formats_that_can_saturate(name: str, expected: bool) -> None:
    assert may_saturate(Format.parse(name)) is expected


@pytest.mark.parametrize("name", [name for name in FORMATS if "a8" in name and "-zp" not in name])
def test_a_format_saturates_only_if_its_codes_can(name: str) -> None:
    fmt = Format.parse(name)
    half = 1 << (fmt.bits - 1)
    low, high = (code - half for code in code_range(fmt))
    worst = torch.tensor([[low, low], [high, high]], dtype=torch.int8)
    assert saturates(worst) == may_saturate(fmt)


def test_a_convolution_pairs_channels() -> None:
    weight = torch.zeros(1, 2, 1, 2, dtype=torch.int8)
    weight[0, :, 0, 0] = 100  # both channels, one position
    codes = weight.reshape(1, -1)
    assert not saturates(codes)
    assert saturates(kernel_order(codes, (1, 2, 1, 2)))
    assert torch.equal(kernel_order(codes, (1, 4)), codes)


def test_refused_in_one_line() -> None:
    codes = torch.tensor([[100, 100, 1, 1]], dtype=torch.int8)
    with pytest.raises(FormatError, match=r"layer\.weight: 50\.00% of the pairs") as caught:
        check_saturation(codes, "layer.weight")
    assert "\n" not in str(caught.value)
    assert "over 128" in str(caught.value)
    assert "reduced or zero-point" in str(caught.value)
    with pytest.warns(SaturationWarning, match="without VNNI"):
        check_saturation(codes, "layer.weight", on_fault="warn")
    check_saturation(codes, "layer.weight", x_max=127)
    check_saturation(torch.full((3, 5), 63, dtype=torch.int8), "layer.weight")


def test_empty_weights_are_safe() -> None:
    assert saturating_share(torch.empty(0, 4, dtype=torch.int8)) == 0
    assert saturating_share(torch.empty(4, 0, dtype=torch.int8)) == 0
