"""LSQ: what is stored on the way forward, the papers' gradients on the way back."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mixq.formats import Format
from mixq.quantize.codes import Steps
from mixq.training.lsq import Start, fake_quantized, gradient_scales

SCALE, ZERO, MINIMUM = 0.25, 1, -0.375
"""Exact in float16 and in products with small codes."""
ALL = [
    "w8", "w8g16", "w8-reduced", "w8-signed", "w8-zp", "w8-affine",
    "w4g16", "w4g16-signed", "w4g32-zp", "w4-affine",
    "w2g16", "w2g64-signed", "w2g16-zp", "w2g16-affine",
]  # fmt: skip
SMALL = [name for name in ALL if not name.startswith("w8")]


def start_of(fmt: Format, columns: int, scale: float = SCALE) -> Start:
    """One row, whose steps are round numbers."""
    groups = fmt.groups_per_row(columns)
    zeros = torch.full((1, groups), ZERO, dtype=torch.uint8)
    minimums = torch.full((1, groups), MINIMUM, dtype=torch.float16)
    return Start(
        fmt,
        columns,
        (1, columns),
        Steps(
            torch.full((1, groups), scale, dtype=torch.float16),
            zeros if fmt.grid == "zero-point" else None,
            minimums if fmt.grid == "affine" else None,
        ),
    )


def limits(fmt: Format) -> tuple[int, int]:
    """Least and largest code as the papers count them, from the code that stands for zero."""
    half = 2 ** (fmt.bits - 1)
    return {
        "symmetric": (1 - half, half - 1),
        "reduced": (-63, 63),
        "signed": (-half, half - 1),
        "zero-point": (-ZERO, 2 * half - 1 - ZERO),
        "affine": (0, 2 * half - 1),
    }[fmt.grid]


def gradients(start: Start, positions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """(weight, by latent, by factor, by shift) of one group whose upstream gradient is ones."""
    latent = positions.reshape(1, 1, -1).requires_grad_()
    factors = torch.ones(1, 1, requires_grad=True)
    shifts = torch.zeros(1, 1, requires_grad=True) if start.fmt.grid == "affine" else None
    weight = fake_quantized(latent, factors, shifts, start)
    weight.sum().backward()
    assert latent.grad is not None
    assert factors.grad is not None
    return weight.detach(), latent.grad, factors.grad, None if shifts is None else shifts.grad


@pytest.mark.parametrize("where", ["inside", "at-a-code", "lowest", "highest", "below", "above"])
@pytest.mark.parametrize("name", ALL)
def test_gradients_are_the_papers(name: str, where: str) -> None:
    # Esser et al. (2020), equation 3, and Bhalgat et al. (2020), equations 4 and 5, one weight at
    # position v counted from the code that stands for zero.
    fmt = Format.parse(name)
    low, high = limits(fmt)
    v = {
        "inside": low + 0.75, "at-a-code": low + 1.0, "lowest": float(low),
        "highest": float(high), "below": low - 2.25, "above": high + 3.5,
    }[where]  # fmt: skip
    columns = 1
    weight, by_latent, by_factor, by_shift = gradients(start_of(fmt, columns), torch.tensor([v]))

    inside = low < v < high
    code = min(max(round(v), low), high)
    minimum = MINIMUM if fmt.grid == "affine" else 0.0
    assert weight.item() == code * SCALE + minimum
    by_step = round(v) - v if inside else (low if v <= low else high)
    positive = high if fmt.grid != "zero-point" else high + ZERO
    g = 1 / math.sqrt(columns * positive)
    # Trained are the factor of the scale and the shift in scales: the chain rule multiplies by s.
    assert by_factor.item() == pytest.approx(by_step * g * SCALE, rel=1e-6, abs=1e-12)
    assert by_latent.item() == (SCALE if inside else 0.0)
    if by_shift is not None:
        assert by_shift.item() == pytest.approx((0.0 if inside else 1.0) * g * SCALE, rel=1e-6)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    name=st.sampled_from(ALL),
    part=st.floats(-0.4, 1.4),
    scale=st.sampled_from([0.25, 0.03125, 3.0]),
    sign=st.sampled_from([1, -1]),
)
def test_gradients_are_differences_of_the_smooth_part(
    name: str, part: float, scale: float, sign: int
) -> None:
    # With what rounding adds held still, the quantizer is smooth but at its two ends.
    fmt = Format.parse(name)
    start = start_of(fmt, 1, scale * (sign if fmt.grid == "signed" else 1))
    low, high = limits(fmt)
    v = low + part * (high - low)
    if min(abs(v - low), abs(v - high)) < 0.05:
        return
    _, by_latent, by_factor, by_shift = gradients(start, torch.tensor([v]))
    s0 = float(start.steps.scales)
    m0 = MINIMUM if fmt.grid == "affine" else 0.0
    added = round(v) - v

    def smooth(latent: float, factor: float, shift: float) -> float:
        s, m = s0 * factor, m0 + abs(s0) * shift
        position = (latent * s0 - (m - m0)) / s
        inner = position + added if low < position < high else min(max(position, low), high)
        return inner * s + m

    h = 1e-6
    slopes = [
        (smooth(v + h * a, 1 + h * b, h * c) - smooth(v - h * a, 1 - h * b, -h * c)) / (2 * h)
        for a, b, c in ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    g = float(gradient_scales(fmt, 1))
    # float32 rounds the position: 2^-24 of at most 2^8 codes.
    tolerance = 2**-14 * abs(s0)
    assert by_latent.item() == pytest.approx(slopes[0], abs=tolerance)
    assert by_factor.item() == pytest.approx(slopes[1] * g, abs=tolerance)
    if by_shift is not None:
        assert by_shift.item() == pytest.approx(slopes[2] * g, abs=tolerance)


@pytest.mark.parametrize(
    ("name", "columns", "expected"),
    [
        ("w8", 100, [1 / math.sqrt(100 * 127)]),
        ("w8-reduced", 100, [1 / math.sqrt(100 * 63)]),
        ("w4g16", 40, [1 / math.sqrt(16 * 7)] * 2 + [1 / math.sqrt(8 * 7)]),
        ("w4g16-zp", 16, [1 / math.sqrt(16 * 15)]),
        ("w2g16-affine", 17, [1 / math.sqrt(16 * 3), 1 / math.sqrt(1 * 3)]),
        ("w2-signed", 9, [1 / 3]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_gradient_scale_is_the_papers(name: str, columns: int, expected: list[float]) -> None:
    # Esser et al. (2020), section 2.2: g = 1 / sqrt(N Q_P).
    found = gradient_scales(Format.parse(name), columns)
    assert found.tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", SMALL)
def test_weights_inside_get_the_gradient_unchanged(name: str) -> None:
    fmt = Format.parse(name)
    low, high = limits(fmt)
    columns = 40
    start = start_of(fmt, columns)
    groups = fmt.groups_per_row(columns)
    size = fmt.group_size or columns
    latent = torch.linspace(low + 0.01, high - 0.01, groups * size).reshape(1, groups, size)
    latent.requires_grad_()
    shifts = torch.zeros(1, groups) if fmt.grid == "affine" else None
    upstream = torch.arange(1.0, columns + 1).reshape(1, columns)
    fake_quantized(latent, torch.ones(1, groups), shifts, start).backward(upstream)
    assert latent.grad is not None
    flat = latent.grad.reshape(-1)
    assert torch.equal(flat[:columns] / SCALE, upstream[0])
    assert not flat[columns:].any()  # what filled the last group up has no gradient


@pytest.mark.parametrize("factor", [1e-30, 1e-3, 1.0, 1e3, 1e30])
@pytest.mark.parametrize("scale", [6e-8, 1e-5, 0.25, -0.25, 60000.0])
def test_stored_scales_stay_usable(scale: float, factor: float) -> None:
    start = start_of(Format.parse("w4g16-signed"), 16, scale)
    stored = start.stored(torch.tensor([[factor]]), None).scales
    assert bool(torch.isfinite(stored).all())
    assert bool((stored != 0).all())
    assert bool((stored.sign() == start.steps.scales.sign()).all())
    if factor == 1.0:
        assert torch.equal(stored, start.steps.scales)


@pytest.mark.parametrize("shift", [-1e30, 0.0, 1e30])
def test_stored_minimums_stay_finite(shift: float) -> None:
    start = start_of(Format.parse("w4g16-affine"), 16)
    stored = start.stored(torch.ones(1, 1), torch.tensor([[shift]])).minimums
    assert stored is not None
    assert bool(torch.isfinite(stored).all())


@pytest.mark.parametrize("shift", [-1.0, 0.5, 2.0])
def test_weights_stay_where_they_are_when_the_minimum_moves(shift: float) -> None:
    # Positions count from the moving minimum, so only the grid moves, by `shift` scales.
    start = start_of(Format.parse("w4g16-affine"), 16)
    latent = torch.linspace(4, 10, 16).reshape(1, 1, 16)
    moved = fake_quantized(latent, torch.ones(1, 1), torch.tensor([[shift]]), start)
    expected = ((latent[0] - shift).round() + shift) * SCALE + MINIMUM
    assert torch.equal(moved, expected)
