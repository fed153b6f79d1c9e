"""TrainedUnit: starts as what is stored, and is stored as it computes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mixq.formats import Format
from mixq.quantize.codes import Codes, code_range
from mixq.quantize.rounding import round_weights
from mixq.quantize.weights import PackedWeight, pack_codes
from mixq.training.unit import TrainedUnit

FORMATS = [
    "w8", "w8g16-signed", "w8-reduced", "w8g16-zp", "w8-affine",
    "w4g16", "w4-signed", "w4g16-zp-squant", "w4g16-affine-clip", "w4g32-zp-clip",
    "w2g16", "w2g16-signed-clip", "w2g16-zp", "w2-affine", "w2g16-affine-hqq",
]  # fmt: skip


def weights(kind: str, seed: int, rows: int, columns: int) -> Tensor:
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    if kind == "far":  # a narrow spread far from zero, where positions lose digits
        return 1000 + matrix * 1e-2
    if kind == "tiny":
        return matrix * 1e-6
    if kind == "halves":  # ties between two codes
        return (matrix * 4).round() / 8
    if kind == "outlier":
        matrix[0, 0] = 300.0
    if kind == "zero":
        matrix[-1] = 0.0
    return matrix


def scattered(codes: Codes, fmt: Format, seed: int) -> Codes:
    """Codes that are not the nearest ones, as GPTQ leaves them."""
    low, high = code_range(fmt)
    moves = torch.randint(-2, 3, codes.values.shape, generator=torch.Generator().manual_seed(seed))
    values = (codes.values.to(torch.int64) + moves).clamp(low, high).to(torch.uint8)
    return replace(codes, values=values)


def same(one: PackedWeight, other: PackedWeight) -> bool:
    return one.tensors.keys() == other.tensors.keys() and all(
        torch.equal(one.tensors[part], other.tensors[part]) for part in one.tensors
    )


@settings(derandomize=True, deadline=None, max_examples=120)
@given(
    name=st.sampled_from(FORMATS),
    kind=st.sampled_from(["plain", "far", "tiny", "halves", "outlier", "zero"]),
    seed=st.integers(0, 1000),
    columns=st.integers(1, 50),
    move=st.booleans(),
)
def test_starts_with_the_stored_codes_bit_for_bit(
    name: str, kind: str, seed: int, columns: int, move: bool
) -> None:
    fmt = Format.parse(name)
    weight = weights(kind, seed, 3, columns)
    codes = round_weights(weight, fmt)
    packed = pack_codes(scattered(codes, fmt, seed) if move else codes, fmt, weight)
    unit = TrainedUnit(weight, packed, train_weights=True)
    assert torch.equal(unit.weight(), packed.unpacked())
    assert same(unit.packed(), packed)


@settings(derandomize=True, deadline=None, max_examples=120)
@given(
    name=st.sampled_from(FORMATS),
    seed=st.integers(0, 1000),
    columns=st.integers(1, 50),
    spread=st.sampled_from([0.01, 0.3, 3.0]),
)
def test_what_is_trained_is_what_is_stored(
    name: str, seed: int, columns: int, spread: float
) -> None:
    weight = weights("plain", seed, 3, columns)
    fmt = Format.parse(name)
    unit = TrainedUnit(
        weight, pack_codes(round_weights(weight, fmt), fmt, weight), train_weights=True
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for number in (*unit.steps_trained.values(), *unit.weights_trained.values()):
            number += spread * torch.randn(number.shape, generator=generator)
    packed = unit.packed()
    assert torch.equal(unit.weight(), packed.unpacked())
    assert packed.stored_bytes == fmt.stored_bytes(3, columns)


@pytest.mark.parametrize(
    ("train_weights", "move", "kept"),
    [(True, False, True), (True, True, False), (False, False, False)],
    ids=["nearest-codes", "other-codes", "steps-alone"],
)
def test_weights_start_where_they_were_or_on_their_codes(
    train_weights: bool, move: bool, kept: bool
) -> None:
    weight, fmt = weights("plain", 0, 4, 32), Format.parse("w4g16")
    codes = round_weights(weight, fmt)
    packed = pack_codes(scattered(codes, fmt, 0) if move else codes, fmt, weight)
    unit = TrainedUnit(weight, packed, train_weights=train_weights)
    start = unit.latent.detach() * packed.tensors["scales"].to(torch.float32)[..., None]
    assert torch.allclose(start.reshape(4, 32), weight, rtol=0, atol=1e-5) == kept
    assert torch.allclose(start.reshape(4, 32), packed.unpacked(), rtol=1e-6) != kept


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_keep_their_dtype(dtype: torch.dtype) -> None:
    weight, fmt = weights("plain", 0, 4, 32).to(dtype), Format.parse("w4g16-affine")
    packed = pack_codes(round_weights(weight, fmt), fmt, weight)
    unit = TrainedUnit(weight, packed, train_weights=True)
    assert unit.weight().dtype == dtype
    assert torch.equal(unit.weight(), packed.unpacked())
    assert unit.packed().dtype == dtype


@pytest.mark.parametrize("train_weights", [False, True])
def test_weights_are_trained_only_if_asked(train_weights: bool) -> None:
    weight, fmt = weights("plain", 0, 4, 32), Format.parse("w2g16-affine")
    packed = pack_codes(round_weights(weight, fmt), fmt, weight)
    unit = TrainedUnit(weight, packed, train_weights=train_weights)
    assert bool(unit.weights_trained) == train_weights
    assert unit.steps_trained.keys() == {"factors", "shifts"}
