"""Bias correction: on calibration data, the mean output of a layer is the original's again."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mixq.calibration import Calibration
from mixq.formats import Format
from mixq.graph.find import find_units
from mixq.moments.collect import collect
from mixq.rounding.bias import find_biases
from mixq.rounding.rounder import Rounder
from mixq.sensitivity.joint import dequantized_copy


def test_which_units_have_a_bias_of_their_own(known: Any) -> None:
    assert find_biases(known.model, known.units) == {
        name: name.replace("weight", "bias")
        for name in ("conv.weight", "depthwise.weight", "hidden.weight", "head.weight")
    }


class Oddities(nn.Module):
    """Biases that belong to two, to nobody, or are counted otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Linear(8, 8)
        self.lonely = nn.Linear(8, 8, bias=False)
        self.transposed = nn.ConvTranspose1d(8, 8, 3)
        self.left, self.right = nn.Linear(8, 8), nn.Linear(8, 8)
        self.right.bias = self.left.bias
        self.above, self.below = nn.Linear(8, 8), nn.Linear(8, 8)
        self.below.weight = self.above.weight
        self.norm = nn.LayerNorm([8, 8])
        self.bilinear = nn.Bilinear(8, 8, 8)


def test_a_bias_that_serves_others_is_left_alone() -> None:
    model = Oddities()
    units = {unit.name: unit for unit in find_units(model)}
    assert find_biases(model, units) == {"plain.weight": "plain.bias"}


@settings(derandomize=True, deadline=None, max_examples=12)
@given(
    kind=st.sampled_from(["linear", "conv", "strided", "depthwise", "grouped"]),
    name=st.sampled_from(["w4g16-bc", "w2g16-affine-gptq-bc", "w2-zp-clip-bc", "w8-bc"]),
    seed=st.integers(0, 5),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_the_mean_output_over_calibration_data_is_the_originals(
    kind: str, name: str, seed: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(seed)
    layers: dict[str, tuple[nn.Module, Tensor]] = {
        "linear": (nn.Linear(20, 12), torch.rand(6, 5, 20) * 3),
        "conv": (nn.Conv2d(8, 12, 3, padding=1), torch.rand(6, 8, 5, 5)),
        "strided": (nn.Conv2d(8, 12, 2, stride=2), torch.rand(6, 8, 6, 6) + 1),
        "depthwise": (nn.Conv2d(8, 16, 3, groups=8), torch.rand(6, 8, 5, 5)),
        "grouped": (nn.Conv1d(8, 12, 3, groups=4), torch.rand(6, 8, 9)),
    }
    layer, x = layers[kind]
    layer, x = layer.to(dtype), x.to(dtype)
    calibration = Calibration.of([x[:4], x[4:]])
    units = {unit.name: unit for unit in find_units(layer)}
    moments = collect(layer, calibration, units.values())
    fmt = Format.parse(name)
    rounder = Rounder(layer, units, moments)
    corrected, plain = (
        dequantized_copy(rounder, {"weight": chosen})
        for chosen in (fmt, replace(fmt, bias_corrected=False))
    )
    with torch.no_grad():
        original = exact(layer, x)
        change, uncorrected = exact(corrected, x) - original, exact(plain, x) - original
    channels = change.dim() - 1 if kind == "linear" else 1
    axes = [axis for axis in range(change.dim()) if axis != channels]
    # What is left: means of inputs and sums of products in float32, and a bias of the own dtype.
    size = x.abs().max().item() * units["weight"].columns ** 0.5
    bias = layer.get_parameter("bias").detach().abs().max().item() + 1
    allowed = 4e-6 * size + bias * torch.finfo(dtype).eps
    assert change.mean(axes).abs().max().item() <= allowed
    if fmt.bits == 2 and dtype == torch.float32:
        assert uncorrected.mean(axes).abs().max().item() > 100 * allowed


def exact(layer: nn.Module, x: Tensor) -> Tensor:
    """The layer's output, computed in float64."""
    output: Tensor = copy.deepcopy(layer).double()(x.double())
    return output


def test_the_bias_keeps_its_dtype_and_nothing_else_moves(known: Any) -> None:
    rounder = Rounder(known.model, known.units, known.moments)
    corrected = rounder.replacement("head.weight", Format.parse("w2g16-clip-bc"))
    plain = rounder.replacement("head.weight", Format.parse("w2g16-clip"))
    assert corrected.tensors.keys() == {"head.weight", "head.bias"}
    assert torch.equal(corrected.tensors["head.weight"], plain.tensors["head.weight"])
    assert corrected.tensors["head.bias"].dtype == torch.float32
