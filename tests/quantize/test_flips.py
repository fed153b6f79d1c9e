"""Sum-preserving rounding: laws of the flips, and what they are for."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixq.formats import Format
from mixq.quantize.codes import dequantize
from mixq.quantize.flips import flip_to_cancel
from mixq.quantize.rounding import round_weights

law = settings(derandomize=True, deadline=None, max_examples=60)
numbers = st.lists(st.floats(0.0, 15.0, width=32), min_size=1, max_size=24)


def flipped(
    values: list[float], low: int = 0, high: int = 15
) -> tuple[torch.Tensor, torch.Tensor]:
    exact = torch.tensor(values)[None, None]
    nearest = exact.round().clamp(low, high)
    everywhere = torch.ones_like(exact, dtype=torch.bool)
    return flip_to_cancel(nearest, exact, low, high, everywhere), exact


@law
@given(numbers)
def test_errors_sum_to_at_most_half_a_step(values: list[float]) -> None:
    # Codes in 0..15 for values within 0..15: the flip that is wanted always stays in range, since
    # a code above its value is at least 1 and a code below it at most 14.
    codes, exact = flipped(values)
    assert abs(float((codes - exact).double().sum())) <= 0.5 + 1e-5 * len(values)


@law
@given(numbers)
def test_every_code_is_one_of_its_two_neighbours(values: list[float]) -> None:
    codes, exact = flipped(values)
    assert bool(((codes == exact.floor()) | (codes == exact.ceil())).all())


@law
@given(st.lists(st.integers(0, 15), min_size=1, max_size=24))
def test_grid_points_stay(values: list[int]) -> None:
    codes, exact = flipped([float(value) for value in values])
    assert torch.equal(codes, exact)


@pytest.mark.parametrize(
    "values",
    [[0.4, 0.4, 0.4], [1.45, 2.45, 3.45, 0.1], [0.6, 1.6, 2.6, 3.6, 4.55], [0.3, 0.7]],
    ids=["all down", "three down", "all up", "cancels already"],
)
def test_flips_are_the_cheapest_that_cancel(values: list[float]) -> None:
    # Among all ways of rounding each value down or up whose errors sum to at most 1/2, the one of
    # least squared error, found by trying them all.
    codes, exact = flipped(values)
    ways = [
        torch.tensor(way)
        for way in itertools.product(*((int(v), int(v) + 1) for v in values))
        if abs(sum(w - v for w, v in zip(way, values, strict=True))) <= 0.5 + 1e-6
    ]
    best = min(float((way - exact[0, 0]).square().sum()) for way in ways)
    assert float((codes - exact).square().sum()) == pytest.approx(best, rel=1e-6)


def test_filled_up_positions_are_never_moved() -> None:
    exact = torch.tensor([[[0.4, 0.4, 0.4, 0.0]]])
    weights = torch.tensor([[[True, True, True, False]]])
    codes = flip_to_cancel(exact.round(), exact, 0, 3, weights)
    assert codes[0, 0].tolist()[3] == 0.0
    assert codes.sum() == 1.0


@pytest.mark.parametrize("columns", [9, 64, 100], ids=["one short group", "one group", "ragged"])
@pytest.mark.parametrize("grid", ["symmetric", "zero-point", "affine"])
def test_a_constant_input_sees_at_most_half_a_scale(grid: str, columns: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(40, columns, generator=generator)
    kept = {}
    for method in ("rtn", "squant"):
        fmt = Format(4, 64, grid, method)  # type: ignore[arg-type]
        codes = round_weights(weight, fmt)
        error = torch.nn.functional.pad(dequantize(codes, fmt) - weight, (0, -columns % 64))
        sums = error.view(40, -1, 64).sum(2).abs() / codes.steps.scales.float()
        kept[method] = float(sums.max())
    # Half a step, and what float16 scales add: 64 columns of up to 15 steps, each 2^-11 off.
    assert kept["squant"] <= 0.5 + 64 * 2**-11
    assert kept["rtn"] > 1.0
