"""Searched steps: never worse than the whole range, near the best there is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mixq.errors import CalibrationError, FormatError
from mixq.formats import GRIDS, Format, Grid
from mixq.quantize import clip
from mixq.quantize.clip import clip_steps, importances, least_squares, weighted_errors
from mixq.quantize.codes import (
    SCALE_DTYPE,
    Steps,
    code_range,
    dequantize,
    nearest,
    to_groups,
    values,
)
from mixq.quantize.ranges import range_steps
from mixq.quantize.rounding import input_error, round_weights

FORMATS = [
    Format(bits, group_size, grid)
    for bits in (8, 4, 2)
    for grid in GRIDS[bits]
    for group_size in (None, 16)
]
every_format = pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, Format]:
    """Weights with heavy tails and offsets, mean squares of inputs with zeros among them."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    blocks, own, columns = draw(st.tuples(*[st.integers(1, n) for n in (3, 3, 40)]))
    power, offset = draw(st.sampled_from([1, 3])), draw(st.sampled_from([0.0, 2.0, -30.0]))
    weight = torch.randn(blocks * own, columns, generator=generator).pow(power) + offset
    diagonal = torch.rand(blocks, columns, generator=generator).sub(0.2).clamp(min=0)
    scale = 10.0 ** draw(st.integers(-5, 2))
    return (
        weight * scale,
        diagonal * 10.0 ** draw(st.integers(-6, 6)),
        draw(st.sampled_from(FORMATS)),
    )


@settings(derandomize=True, deadline=None, max_examples=150)
@given(cases())
def test_no_group_is_worse_than_with_its_whole_range(case: tuple[Tensor, Tensor, Format]) -> None:
    weight, diagonal, fmt = case
    grouped = to_groups(weight, fmt)
    importance = importances(diagonal, weight.shape[0], weight.shape[1], fmt)
    importance = importance.repeat_interleave(len(weight) // len(importance), dim=0)
    whole = range_steps(grouped.amin(2), grouped.amax(2), fmt)
    searched = clip_steps(weight, fmt, diagonal)
    errors = weighted_errors(grouped, searched, importance, fmt)
    assert bool((errors <= weighted_errors(grouped, whole, importance, fmt)).all())


@every_format
def test_the_error_falls(fmt: Format) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(32, 64, generator=generator).pow(3) + 0.3
    diagonal = torch.rand(64, generator=generator).pow(4)
    errors = []
    for method in ("rtn", "clip"):
        chosen = replace(fmt, method=method)
        back = dequantize(round_weights(weight, chosen, diagonal=diagonal), chosen)
        errors.append(input_error(weight, back, diagonal=diagonal))
    assert errors[1] < 0.97 * errors[0]


@pytest.mark.parametrize("bits", [4, 2])
def test_scales_are_near_the_best_of_all(bits: int) -> None:
    # Symmetric grid: one number per group, so that all of them can be tried.
    fmt = Format(bits)
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(60, 24, generator=generator)
    diagonal = torch.rand(24, generator=generator)
    grouped, importance = to_groups(weight, fmt), importances(diagonal, 60, 24, fmt)
    found = weighted_errors(grouped, clip_steps(weight, fmt, diagonal), importance, fmt)
    tried = torch.linspace(0.01, 3.0, 3000).to(SCALE_DTYPE)
    best = torch.stack(
        [weighted_errors(grouped, Steps(scale.expand(60, 1)), importance, fmt) for scale in tried]
    ).amin(0)
    assert float(found.sum()) <= 1.05 * float(best.sum())


def test_the_best_affine_levels_of_a_normal_distribution() -> None:
    # Max, "Quantizing for Minimum Distortion", IRE Trans. Inf. Theory 6, 1960, table II: four
    # equally spaced levels leave .1188 of the variance at best, sixteen .01154.
    weight = torch.randn(1, 100_000, generator=torch.Generator().manual_seed(3))
    for bits, distortion in ((2, 0.1188), (4, 0.01154)):
        fmt = Format(bits, None, "affine", "clip")
        error = input_error(weight, dequantize(round_weights(weight, fmt), fmt)) / 100_000
        # The mean of 1e5 squared errors scatters by less than 1%; the search may lose 3%.
        assert 0.99 * distortion <= error <= 1.03 * distortion


def test_a_weight_whose_input_is_large_is_kept_at_the_cost_of_others() -> None:
    weight = torch.tensor([[1.0, 0.3, 0.31, 0.29, 0.3, 0.32, 0.28, 0.3]])
    diagonal = torch.tensor([1e-3, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    fmt = Format(2, None, "symmetric", "clip")
    calm = dequantize(round_weights(weight, fmt, diagonal=diagonal), fmt)
    loud = dequantize(round_weights(weight, fmt, diagonal=diagonal.flip(0) * 10 + 1e-3), fmt)
    assert calm[0, 1:] == pytest.approx(0.3, abs=0.02)
    assert calm[0, 0] < 0.5
    assert float(loud[0, 0]) >= float(calm[0, 0])


@every_format
def test_rows_do_not_depend_on_how_they_are_chunked(
    fmt: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(4)
    weight, diagonal = (
        torch.randn(12, 40, generator=generator),
        torch.rand(3, 40, generator=generator),
    )
    whole = clip_steps(weight, fmt, diagonal)
    monkeypatch.setattr(clip, "CHUNK", 100)
    parts = clip_steps(weight, fmt, diagonal)
    assert torch.equal(whole.scales, parts.scales)
    for one, other in ((whole.zeros, parts.zeros), (whole.minimums, parts.minimums)):
        assert (one is None and other is None) or torch.equal(one, other)  # type: ignore[arg-type]


@every_format
def test_each_row_meets_the_inputs_of_its_block(fmt: Format) -> None:
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(6, 40, generator=generator)
    diagonal = torch.rand(3, 40, generator=generator).pow(4)
    whole = clip_steps(weight, fmt, diagonal)
    for block in range(3):
        own = slice(2 * block, 2 * block + 2)
        alone = clip_steps(weight[own], fmt, diagonal[block])
        assert torch.equal(whole.scales[own], alone.scales)


@every_format
def test_the_filling_of_a_ragged_group_counts_nothing(fmt: Format) -> None:
    # The last of 17 columns is a group of its own, filled up with copies of it.
    importance = importances(None, 3, 17, fmt)
    assert int((importance > 0).sum()) == 17


@pytest.mark.parametrize(
    ("shape", "match"),
    [((2, 9), "9"), ((4, 8), "divides"), ((0, 8), "divides"), ((2, 8, 8), "blocks, 8")],
    ids=str,
)
def test_statistics_of_other_weights_are_refused(shape: tuple[int, ...], match: str) -> None:
    with pytest.raises(FormatError, match=match):
        clip_steps(torch.ones(6, 8), Format(4), torch.ones(shape))


def test_statistics_that_are_not_finite_are_refused() -> None:
    with pytest.raises(CalibrationError, match="NaN or infinite"):
        clip_steps(torch.ones(6, 8), Format(4), torch.full((8,), torch.inf))


@every_format
def test_least_squares_gives_back_the_steps_of_exact_weights(fmt: Format) -> None:
    grouped = to_groups(torch.randn(8, 48, generator=torch.Generator().manual_seed(6)), fmt)
    steps = range_steps(grouped.amin(2), grouped.amax(2), fmt)
    codes = nearest(grouped, steps, fmt)
    found = least_squares(values(codes, steps, fmt), codes, torch.ones_like(grouped), fmt)
    assert torch.equal(found.scales, steps.scales)
    if steps.zeros is not None:
        assert found.zeros is not None
        assert torch.equal(found.zeros, steps.zeros)
    if steps.minimums is not None:
        # Mean weight less mean code x scale, in float32 with cancellation.
        assert found.minimums is not None
        torch.testing.assert_close(found.minimums, steps.minimums, rtol=2**-10, atol=1e-5)


@every_format
def test_least_squares_never_gives_a_scale_that_the_grid_has_not(fmt: Format) -> None:
    grouped = to_groups(torch.randn(8, 48, generator=torch.Generator().manual_seed(7)), fmt)
    low, high = code_range(fmt)
    steps = range_steps(grouped.amin(2), grouped.amax(2), fmt)
    mirrored = low + high - nearest(grouped, steps, fmt)
    alike = torch.full_like(mirrored, float(high))
    for codes in (mirrored, alike):
        scales = least_squares(grouped, codes, torch.ones_like(grouped), fmt).scales
        assert fmt.grid == "signed" or not bool((scales <= 0).any())


@pytest.mark.parametrize("grid", ["symmetric", "signed", "affine"])
def test_least_squares_weighs_by_importance(grid: Grid) -> None:
    fmt = Format(4, 16, grid)
    generator = torch.Generator().manual_seed(8)
    grouped = torch.randn(6, 2, 16, generator=generator)
    importance = torch.rand(6, 2, 16, generator=generator).pow(4)
    codes = nearest(grouped, range_steps(grouped.amin(2), grouped.amax(2), fmt), fmt)
    found = values(codes, least_squares(grouped, codes, importance, fmt), fmt)
    root = importance.double().sqrt()
    units = [codes.double() - (0 if grid == "affine" else 8)]
    if grid == "affine":
        units.append(torch.ones_like(units[0]))
    design = torch.stack(units, dim=3) * root[..., None]
    exact = torch.linalg.lstsq(design, (grouped.double() * root)[..., None]).solution
    least = (design @ exact)[..., 0] - grouped.double() * root
    error = (found - grouped).double() * root
    # float16 numbers: each 2^-12 off on average, of codes up to 15.
    assert float(error.square().sum()) <= 1.0005 * float(least.square().sum())
