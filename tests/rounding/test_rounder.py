"""Rounder: the integers of `round_weights`, made once, and what they put in a model's place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mixq.calibration import Calibration
from mixq.errors import FormatError
from mixq.formats import Format
from mixq.graph.find import find_units
from mixq.moments.collect import collect
from mixq.quantize.packing import unpack
from mixq.quantize.rounding import input_error, round_weights
from mixq.quantize.weights import pack_weight
from mixq.rounding.replacement import Replacement, joined
from mixq.rounding.rounder import STAGE, Rounder
from mixq.sensitivity.joint import dequantized_copy
from mixq.sensitivity.reference import Reference

SEEN: tuple[str, ...] = (
    "conv.weight",
    "depthwise.weight",
    "hidden.weight",
    "head.weight",
    "recurrent.weight_ih_l0",
)
UNSEEN: tuple[str, ...] = ("mix",)
"""Inputs of `x @ W` run along the rows: there are no moments of them."""
NAMES = (
    *("w4g16-clip", "w4g16-affine-clip", "w2-signed-clip", "w4g32-zp-hqq", "w2g16-affine-hqq"),
    *("w4g16-gptq", "w4g16-affine-gptq", "w2g16-zp-gptq", "w4-signed-gptq", "w8-gptq"),
)
FREE = ("w8", "w8-reduced", "w4g16-zp-squant", "w2g16-affine", "w8a8-dynamic")


@pytest.fixture
def rounder(known: Any) -> Rounder:
    return Rounder(known.model, known.units, known.moments, known.ranges)


def test_the_network_is_what_the_tests_take_it_for(known: Any) -> None:
    assert set(SEEN) <= set(known.moments)
    assert not set(UNSEEN) & set(known.moments)
    assert set(known.units) > {*SEEN, *UNSEEN, "table.weight"}
    assert known.moments["depthwise.weight"].groups == 32


@pytest.mark.parametrize("unit", SEEN)
@pytest.mark.parametrize("name", NAMES)
def test_the_integers_are_those_of_round_weights(
    known: Any, rounder: Rounder, unit: str, name: str
) -> None:
    fmt, own, moments = Format.parse(name), known.units[unit], known.moments[unit]
    weight = known.model.get_parameter(unit).detach().reshape(own.rows, own.columns)
    expected = round_weights(weight, fmt, second=moments.second, diagonal=moments.diagonal)
    packed = rounder.packed(unit, fmt)
    count = own.rows * own.columns
    codes = unpack(packed.tensors["codes"], fmt.bits, count).view(own.rows, own.columns)
    assert torch.equal(codes, expected.values)
    assert torch.equal(packed.tensors["scales"], expected.steps.scales)
    if fmt.grid == "affine":
        assert expected.steps.minimums is not None
        assert torch.equal(packed.tensors["minimums"], expected.steps.minimums)
    assert packed.format == fmt
    assert packed.shape == own.shape


def test_where_only_the_diagonal_is_known_it_weights_the_errors(known: Any) -> None:
    own, fmt = known.units["head.weight"], Format.parse("w4g16-affine-clip")
    wide = collect(known.model, known.calibration, [own], most_columns=own.columns - 1)
    assert wide["head.weight"].second is None
    weight = known.model.get_parameter("head.weight").detach()
    expected = round_weights(weight, fmt, diagonal=wide["head.weight"].diagonal)
    found = Rounder(known.model, known.units, wide).packed("head.weight", fmt)
    assert torch.equal(found.tensors["scales"], expected.steps.scales)
    assert not torch.equal(expected.steps.scales, round_weights(weight, fmt).steps.scales)


@pytest.mark.parametrize("unit", [*SEEN, *UNSEEN])
@pytest.mark.parametrize("name", FREE)
def test_what_needs_no_data_is_packed_from_the_weights(
    known: Any, rounder: Rounder, unit: str, name: str
) -> None:
    own = known.units[unit]
    expected = pack_weight(
        known.model.get_parameter(unit), Format.parse(name), own.rows, own.columns
    )
    found = rounder.packed(unit, Format.parse(name))
    assert found.tensors.keys() == expected.tensors.keys()
    assert all(torch.equal(found.tensors[key], expected.tensors[key]) for key in expected.tensors)


@pytest.mark.parametrize("unit", UNSEEN)
def test_without_moments_gptq_is_refused_and_clip_counts_all_inputs_the_same(
    known: Any, rounder: Rounder, unit: str
) -> None:
    own = known.units[unit]
    with pytest.raises(FormatError, match="none were collected; calibrate this unit, or choose"):
        rounder.packed(unit, Format.parse("w4g16-gptq"))
    fmt = Format.parse("w4g16-clip")
    weight = known.model.get_parameter(unit).detach().reshape(own.rows, own.columns)
    assert torch.equal(rounder.packed(unit, fmt).unpacked(), pack(weight, fmt).reshape(own.shape))


def pack(weight: Tensor, fmt: Format) -> Tensor:
    """The floats of a matrix rounded without data."""
    return Rounder(
        holder := Holder(weight), {unit.name: unit for unit in find_units(holder)}
    ).packed("weight", fmt).unpacked()  # fmt: skip


class Holder(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())


def test_everything_is_rounded_once(
    known: Any, rounder: Rounder, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, ...]] = []

    def counted(weight: Tensor, *args: Any, **kwargs: Any) -> Any:
        calls.append(tuple(weight.shape))
        return round_weights(weight, *args, **kwargs)

    monkeypatch.setattr("mixq.rounding.rounder.round_weights", counted)
    formats = [Format.parse(name) for name in ("w4g16-gptq", "w2g16-clip")]
    stages: list[tuple[str, int, int]] = []
    rounder.prepare(
        dict.fromkeys(SEEN, formats),
        lambda stage, done, total: stages.append((stage, done, total)),
    )
    assert len(calls) == 2 * len(SEEN)
    assert stages[-1] == (STAGE, 2 * len(SEEN), 2 * len(SEEN))
    rounder.prepare(dict.fromkeys(SEEN, formats))
    for unit in SEEN:
        for fmt in formats:
            rounder.replacement(unit, fmt)
            rounder.layer_error(unit, fmt)
    rounder.plan_weights(dict.fromkeys(SEEN, formats[0]))
    assert len(calls) == 2 * len(SEEN)


def test_preparing_passes_over_what_cannot_be_rounded(rounder: Rounder) -> None:
    rounder.prepare({"mix": (Format.parse("w4g16-gptq"), Format.parse("w4g16-clip"))})
    assert rounder.packed("mix", Format.parse("w4g16-clip")).format.method == "clip"


def test_a_tied_unit_is_replaced_under_all_its_names(known: Any, rounder: Rounder) -> None:
    fmt = Format.parse("w4g16-clip")
    found = rounder.replacement("table.weight", fmt)
    assert set(found.tensors) == {"table.weight", "tied.weight"}
    assert torch.equal(found.tensors["table.weight"], found.tensors["tied.weight"])
    assert found.inputs == {}


def test_32_bits_replace_nothing(known: Any, rounder: Rounder) -> None:
    found = rounder.replacement("head.weight", Format(32))
    assert torch.equal(found.tensors["head.weight"], known.model.get_parameter("head.weight"))
    assert rounder.joint(dict.fromkeys(known.units, Format(32))).tensors == {}
    assert rounder.layer_error("head.weight", Format(32)) == 0.0


def test_the_joint_replacement_is_all_of_them(known: Any, rounder: Rounder) -> None:
    names = ("w4g16-gptq-bc", "w8", "w8a8-static", "w32", "w16")
    assignment = {
        unit: Format.parse(names[index % len(names)]) for index, unit in enumerate(SEEN[:4])
    }
    parts = [rounder.replacement(unit, fmt) for unit, fmt in assignment.items() if fmt.bits < 32]
    joint = rounder.joint(assignment)
    assert joint.tensors.keys() == {name for part in parts for name in part.tensors}
    assert joint.inputs.keys() == {path for part in parts for path in part.inputs} == {"hidden"}
    for part in parts:
        assert all(torch.equal(joint.tensors[name], item) for name, item in part.tensors.items())
    assert joined([]).tensors == Replacement().tensors == {}


@pytest.mark.parametrize("name", ["w8a8-static", "w8a8-dynamic", "w8a8g16-clip-static"])
def test_activations_go_through_a_quantizer_where_the_unit_is_entered(
    known: Any, rounder: Rounder, name: str
) -> None:
    fmt = Format.parse(name)
    (path,) = rounder.replacement("head.weight", fmt).inputs
    assert path == "head"
    changed = dequantized_copy(rounder, {"head.weight": fmt})
    reference = Reference(known.model, known.calibration)
    measured = reference.errors(rounder.replacement("head.weight", fmt), name)
    plain = replace(fmt, activation="none", method="clip" if fmt.method == "clip" else "rtn")
    unquantized = reference.errors(rounder.replacement("head.weight", plain), name)
    assert measured != unquantized
    (batch,) = known.calibration.batches
    with torch.no_grad():
        direct = (changed(batch) - known.model(batch)).double().square().mean(1).tolist()
    assert measured == pytest.approx(direct, rel=1e-5)
    # The network itself has no hook left.
    assert not any(module._forward_pre_hooks for module in known.model.modules())


REFUSALS: dict[str, tuple[str, str, str]] = {
    "static-without-range": ("head.weight", "w8a8-static", "needs the range of the inputs of"),
    "recurrent-input": ("recurrent.weight_ih_l0", "w8a8-dynamic", "no plain layer with one input"),
    "raw-input": ("mix", "w8a8-dynamic", "no plain layer with one input"),
    "no-bias": ("table.weight", "w4g16-clip-bc", "that could be corrected; use w4g16-clip"),
    "raw-bias": ("mix", "w8-bc", "no bias of its own"),
    "recurrent-bias": ("recurrent.weight_ih_l0", "w8-bc", "no bias of its own"),
    "bias-without-data": ("head.weight", "w8-bc", "cannot be corrected, because what enters it"),
    "gptq-without-data": ("head.weight", "w4g16-gptq", "second moments, but none were collected"),
}  # fmt: skip


@pytest.mark.parametrize(("unit", "name", "words"), REFUSALS.values(), ids=REFUSALS)
def test_what_cannot_be_done_is_said(known: Any, unit: str, name: str, words: str) -> None:
    blind = Rounder(known.model, known.units)
    with pytest.raises(FormatError) as caught:
        blind.replacement(unit, Format.parse(name))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["w4g16-gptq", "w8", "w2g16-clip", "w16"])
def test_layer_error_is_that_of_the_layer_on_its_inputs(
    known: Any, rounder: Rounder, name: str
) -> None:
    """tr(E H E^T) / rows, against the layer run on what enters it."""
    fmt, inputs = Format.parse(name), []
    handle = known.model.head.register_forward_pre_hook(lambda _m, args: inputs.append(args[0]))
    with torch.no_grad():
        known.model(known.calibration.batches[0])
    handle.remove()
    (x,) = inputs
    weight = known.model.head.weight.detach()
    change = (rounder.packed("head.weight", fmt).unpacked() - weight).double()
    expected = (x.double() @ change.T).square().mean().item()
    assert rounder.layer_error("head.weight", fmt) == pytest.approx(expected, rel=1e-4)


def test_layer_error_without_moments_counts_all_inputs_the_same(known: Any) -> None:
    blind, fmt = Rounder(known.model, known.units), Format.parse("w4g16-clip")
    weight = known.model.mix.detach()
    rounded = blind.packed("mix", fmt).unpacked()
    assert blind.layer_error("mix", fmt) == input_error(weight, rounded)
    assert blind.layer_error("mix", fmt) == pytest.approx(
        (weight - rounded).double().square().sum().item() / 24, rel=1e-6
    )


def test_rounding_leaves_the_model_alone(
    fresh: nn.Module, tokens: Callable[..., Tensor], known: Any
) -> None:
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    units = {unit.name: unit for unit in find_units(fresh)}
    rounder = Rounder(fresh, units, known.moments, known.ranges)
    assignment = dict.fromkeys(SEEN, Format.parse("w4g16-gptq"))
    Reference(fresh, Calibration.of(tokens(4))).errors(rounder.joint(assignment), "x")
    dequantized_copy(rounder, assignment)
    rounder.plan_weights(assignment)
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())


def test_plan_weights_hold_what_needs_codes_and_no_more(rounder: Rounder) -> None:
    assignment = {
        "head.weight": Format.parse("w4g16-gptq-bc"),
        "hidden.weight": Format.parse("w8"),
        "conv.weight": Format.parse("w16"),
        "mix": Format(32),
        "depthwise.weight": Format.parse("w8a8-static"),
        "table.weight": Format.parse("w8a8-dynamic"),
    }
    found = rounder.plan_weights(assignment)
    assert found is not None
    assert set(found.units) == {"head.weight", "depthwise.weight"}
    assert set(found.others) == {"head.bias"}
    joint = rounder.joint({unit: assignment[unit] for unit in ("head.weight", "depthwise.weight")})
    for unit, packed in found.units.items():
        assert torch.equal(packed.unpacked(), joint.tensors[unit])
    assert torch.equal(found.others["head.bias"], joint.tensors["head.bias"])
    assert rounder.plan_weights({"hidden.weight": Format.parse("w8")}) is None
