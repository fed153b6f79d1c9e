"""GPTQ: equal to the recursion it speeds up, between the optimum and plain rounding."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mixq.errors import CalibrationError
from mixq.formats import GRIDS, Format, Grid
from mixq.quantize import gptq as gptq_module
from mixq.quantize.clip import clip_steps
from mixq.quantize.codes import Steps, code_range, nearest, to_groups
from mixq.quantize.gptq import DAMPING, gptq, gptq_codes, prepare
from mixq.quantize.refit import grid_lines, on_grid, refit_steps, row_errors

law = settings(derandomize=True, deadline=None, max_examples=60)
FORMATS = [
    Format(bits, group_size, grid, "gptq")
    for bits in (8, 4, 2)
    for grid in GRIDS[bits]
    for group_size in ((None, 16) if bits == 4 else (16,))
]
every_format = pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)


def problem(
    rows: int, columns: int, seed: int, *, samples: int | None = None, blocks: int = 1
) -> tuple[Tensor, Tensor]:
    """Weights (rows, columns) and E[x x^T] (blocks, columns, columns) of correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    count = 4 * columns if samples is None else samples
    mixing = torch.randn(blocks, columns, columns, generator=generator) + torch.eye(columns)
    inputs = torch.randn(blocks, count, columns, generator=generator) @ mixing
    inputs *= torch.rand(blocks, 1, columns, generator=generator) + 0.1
    return torch.randn(rows, columns, generator=generator), inputs.mT @ inputs / count


def damped(second: Tensor) -> Tensor:
    """In float64, as `prepare` damps."""
    exact = second.double()
    mean = exact.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    return exact + DAMPING * mean * torch.eye(second.shape[-1], dtype=torch.float64)


def rounded_plainly(weight: Tensor, steps: Steps, fmt: Format) -> Tensor:
    codes = nearest(to_groups(weight, fmt), steps, fmt)
    return codes.reshape(len(weight), -1)[:, : weight.shape[1]]


def brain_surgeon(weight: Tensor, fmt: Format, steps: Steps, second: Tensor) -> Tensor:
    """The recursion of "Optimal Brain Compression", NeurIPS 2022, as GPTQ's eq. 2 and 3 give it.

    One weight at a time, in float64, with the inverse of the inputs that are left, in the fixed
    order of falling mean squares.
    """
    columns = weight.shape[1]
    size = fmt.group_size or columns
    scales, zeros, shifts = (line.double() for line in grid_lines(steps, fmt))
    hessian = damped(second[None])[0]
    codes = torch.empty_like(weight)
    order = second.diagonal().argsort(descending=True, stable=True).tolist()
    for row, weights in enumerate(weight.double().clone()):
        inverse = hessian.inverse()
        for column in order:
            scale, zero, shift = (line[row, column // size] for line in (scales, zeros, shifts))
            code = ((weights[column] - shift) / scale + zero).round().clamp(*code_range(fmt))
            codes[row, column] = code
            error = weights[column] - ((code - zero) * scale + shift)
            weights -= error / inverse[column, column] * inverse[:, column]
            gone = torch.outer(inverse[:, column], inverse[column]) / inverse[column, column]
            inverse = inverse - gone
    return codes


@every_format
@pytest.mark.parametrize("columns", [1, 5, 24], ids="{} columns".format)
def test_codes_are_those_of_the_recursion(fmt: Format, columns: int) -> None:
    weight, second = problem(8, columns, seed=columns)
    steps = clip_steps(weight, fmt)
    codes = gptq_codes(weight, fmt, steps, prepare(second))
    assert torch.equal(codes, brain_surgeon(weight, fmt, steps, second[0]))


def test_updates_of_later_blocks_of_columns_are_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, second = problem(8, 40, seed=1)
    fmt = Format(4, 16, "affine", "gptq")
    steps = clip_steps(weight, fmt)
    expected = brain_surgeon(weight, fmt, steps, second[0])
    for lazy, chunk in ((7, 100), (16, 40), (1, 1 << 20)):
        monkeypatch.setattr(gptq_module, "_LAZY", lazy)
        monkeypatch.setattr(gptq_module, "_CHUNK", chunk)
        assert torch.equal(gptq_codes(weight, fmt, steps, prepare(second)), expected)


@pytest.mark.parametrize("columns", [1, 9, 40])
@pytest.mark.parametrize("samples", [0, 1, 5, 200], ids="{} samples".format)
def test_the_factor_is_the_inverses(columns: int, samples: int) -> None:
    _, second = problem(1, columns, seed=2, samples=samples or 1, blocks=3)
    second = second if samples else torch.zeros_like(second)
    factor = prepare(second)
    for block in range(3):
        order, upper = factor.order[block], factor.upper[block].double()
        assert sorted(order.tolist()) == list(range(columns))
        assert torch.equal(upper, upper.triu())
        exact = damped(second)[block][order][:, order] if samples else torch.eye(columns) * DAMPING
        product = upper.T @ upper @ exact.double()
        # float32 rounds the factor by 2^-24, times the condition number of at most columns / .05.
        torch.testing.assert_close(
            product, torch.eye(columns).double(), rtol=0, atol=2**-22 * columns / DAMPING
        )


@law
@given(st.integers(0, 2**20), st.integers(1, 5))
def test_no_code_beats_the_optimum(seed: int, columns: int) -> None:
    weight, second = problem(3, columns, seed)
    fmt = Format(2, None, "affine", "gptq")
    steps = clip_steps(weight, fmt)
    exact = prepare(second).damped
    ways = torch.tensor(list(itertools.product(range(4), repeat=columns))).float()
    best = [
        min(
            float(error)
            for error in row_errors(
                weight[row].expand(len(ways), columns).contiguous(),
                on_grid(ways, Steps(s.expand(len(ways), 1), None, m.expand(len(ways), 1)), fmt),
                exact,
            )
        )
        for row in range(3)
        for s, m in [(steps.scales[row], steps.minimums[row])]  # type: ignore[index]
    ]
    codes = gptq_codes(weight, fmt, steps, prepare(second))
    found = row_errors(weight, on_grid(codes, steps, fmt), exact)
    assert bool((found >= torch.tensor(best) * (1 - 1e-5) - 1e-7).all())


@pytest.mark.parametrize("grid", GRIDS[2])
def test_on_average_it_lies_between_the_optimum_and_plain_rounding(grid: Grid) -> None:
    fmt = Format(2, None, grid, "gptq")
    sums = torch.zeros(3)
    low, high = code_range(fmt)
    ways = torch.tensor(list(itertools.product(range(low, high + 1), repeat=4))).float()
    for seed in range(40):
        weight, second = problem(4, 4, seed)
        steps = clip_steps(weight, fmt)
        factor = prepare(second)
        plain = rounded_plainly(weight, steps, fmt)
        learned = gptq_codes(weight, fmt, steps, factor)
        each = []
        for row in range(4):
            wide = Steps(
                *(
                    None if part is None else part[row].expand(len(ways), 1)
                    for part in (steps.scales, steps.zeros, steps.minimums)
                )  # type: ignore[arg-type]
            )
            target = weight[row].expand(len(ways), 4).contiguous()
            each.append(row_errors(target, on_grid(ways, wide, fmt), factor.damped).min())
        sums[0] += torch.stack(each).sum()
        sums[1] += row_errors(weight, on_grid(learned, steps, fmt), factor.damped).sum()
        sums[2] += row_errors(weight, on_grid(plain, steps, fmt), factor.damped).sum()
    optimum, found, rounded = sums.tolist()
    assert optimum <= found < rounded
    # It takes more than a third of the way from plain rounding to the optimum.
    assert rounded - found > (rounded - optimum) / 3


@every_format
def test_independent_inputs_leave_the_nearest_codes(fmt: Format) -> None:
    weight, _ = problem(8, 40, seed=3)
    diagonal = torch.rand(40, generator=torch.Generator().manual_seed(4))
    steps = clip_steps(weight, fmt, diagonal)
    codes = gptq_codes(weight, fmt, steps, prepare(diagonal.diag()))
    assert torch.equal(codes, rounded_plainly(weight, steps, fmt))


@every_format
@pytest.mark.parametrize("blocks", [2, 6], ids=["grouped", "depthwise"])
def test_each_block_of_rows_meets_its_own_inputs(fmt: Format, blocks: int) -> None:
    weight, second = problem(6, 9, seed=5, blocks=blocks)
    steps = clip_steps(weight, fmt)
    together = gptq(weight, fmt, steps, prepare(second))
    own = 6 // blocks
    for block in range(blocks):
        rows = slice(block * own, block * own + own)
        part = Steps(
            *(
                None if tensor is None else tensor[rows]
                for tensor in (steps.scales, steps.zeros, steps.minimums)
            )  # type: ignore[arg-type]
        )
        codes, refitted = gptq(weight[rows], fmt, part, prepare(second[block]))
        assert torch.equal(together[0][rows], codes)
        assert torch.equal(together[1].scales[rows], refitted.scales)


@pytest.mark.parametrize("blocks", [1, 5])
def test_many_blocks_are_prepared_in_parts(blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _, second = problem(1, 6, seed=6, blocks=blocks)
    whole = prepare(second)
    monkeypatch.setattr(gptq_module, "_CHUNK", 50)
    assert torch.equal(prepare(second).upper, whole.upper)


@pytest.mark.parametrize(
    "second",
    [torch.zeros(12, 12), torch.ones(12, 12), -torch.eye(12), torch.ones(12, 12) - torch.eye(12)],
    ids=["never seen", "all alike", "negative", "indefinite"],
)
@pytest.mark.parametrize("damping", [DAMPING, 0.0])
def test_moments_without_an_inverse_are_damped_until_they_have_one(
    second: Tensor, damping: float
) -> None:
    weight, _ = problem(4, 12, seed=7)
    fmt = Format(4, None, "symmetric", "gptq")
    factor = prepare(second, damping)
    assert bool(factor.upper.isfinite().all())
    codes, steps = gptq(weight, fmt, clip_steps(weight, fmt), factor)
    assert bool(on_grid(codes, steps, fmt).isfinite().all())
    assert bool((codes == codes.round()).all())


def test_only_an_indefinite_block_is_damped_more_tenfold_each_time() -> None:
    # Eigenvalues 1 + 3a and 1 - a with a = 1.4: -.4 needs damping above .4, so .05 becomes .5.
    sound, unsound = torch.eye(4), torch.eye(4) + 1.4 * (torch.ones(4, 4) - torch.eye(4))
    damped = prepare(torch.stack([sound, unsound]), 0.05).damped
    assert torch.equal(damped[0], sound + 0.05 * torch.eye(4))
    torch.testing.assert_close(damped[1], unsound + 0.5 * torch.eye(4))


def test_inputs_that_were_never_seen_are_rounded_to_the_nearest() -> None:
    weight, second = problem(6, 10, seed=8)
    dead = [2, 3, 9]
    second[:, dead] = 0.0
    second[:, :, dead] = 0.0
    fmt = Format(4, None, "symmetric", "gptq")
    steps = clip_steps(weight, fmt)
    codes = gptq_codes(weight, fmt, steps, prepare(second))
    assert torch.equal(codes[:, dead], rounded_plainly(weight, steps, fmt)[:, dead])


@pytest.mark.parametrize("value", [torch.nan, torch.inf], ids=str)
def test_moments_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(CalibrationError, match="NaN or infinite"):
        prepare(torch.full((3, 3), value))


@every_format
@pytest.mark.parametrize("columns", [1, 30, 48])
def test_a_refit_never_raises_a_rows_error(fmt: Format, columns: int) -> None:
    weight, second = problem(12, columns, seed=9, blocks=3)
    steps = clip_steps(weight, fmt)
    codes = gptq_codes(weight, fmt, steps, prepare(second))
    refitted = refit_steps(weight, codes, fmt, steps, second)
    before, after = (row_errors(weight, on_grid(codes, s, fmt), second) for s in (steps, refitted))
    assert bool((after <= before).all())
    if columns > 1:
        assert float(after.sum()) < float(before.sum())
    if fmt.grid != "signed":
        assert bool((refitted.scales > 0).all())


@every_format
def test_a_refit_turns_a_scale_over_only_where_the_grid_has_a_sign(fmt: Format) -> None:
    weight, second = problem(6, 16, seed=12)
    steps = clip_steps(weight, fmt)
    low, high = code_range(fmt)
    mirrored = low + high - rounded_plainly(weight, steps, fmt)
    refitted = refit_steps(weight, mirrored, fmt, steps, second)
    assert bool((refitted.scales.sign() == steps.scales.sign()).all()) != (fmt.grid == "signed")


@pytest.mark.parametrize("grid", ["symmetric", "signed", "zero-point", "affine"])
def test_a_refit_is_the_least_squares_solution(grid: Grid) -> None:
    # The same problem as one on the inputs themselves: |X (w - A s)| with A of the codes.
    fmt = Format(4, 16, grid, "gptq")
    generator = torch.Generator().manual_seed(10)
    weight = torch.randn(5, 40, generator=generator)
    inputs = torch.randn(300, 40, generator=generator).double()
    second = (inputs.T @ inputs / 300)[None].float()
    steps = clip_steps(weight, fmt)
    codes = gptq_codes(weight, fmt, steps, prepare(second))
    refitted = refit_steps(weight, codes, fmt, steps, second)
    zeros = grid_lines(steps, fmt)[1]
    for row in range(5):
        units = torch.zeros(40, 6, dtype=torch.float64)
        for column in range(40):
            units[column, column // 16] = codes[row, column] - zeros[row, column // 16]
            units[column, 3 + column // 16] = 1.0 if grid == "affine" else 0.0
        target = inputs @ weight[row].double()
        used = slice(0, 6 if grid == "affine" else 3)
        exact = torch.linalg.lstsq(inputs @ units[:, used], target[:, None]).solution
        least = (inputs @ (units[:, used] @ exact)[:, 0] - target).square().mean()
        back = on_grid(codes, refitted, fmt)[row].double()
        error = (inputs @ back - target).square().mean()
        # float16 steps and the ridge of .001 are all that lies between the two.
        assert float(least) * 0.9999 <= float(error) <= float(least) * 1.001


@every_format
def test_the_whole_method_is_at_least_as_good_as_its_first_sweep(fmt: Format) -> None:
    weight, second = problem(20, 48, seed=11)
    factor, steps = prepare(second), clip_steps(weight, fmt)
    first = on_grid(gptq_codes(weight, fmt, steps, factor), steps, fmt)
    codes, refitted = gptq(weight, fmt, steps, factor)
    last = on_grid(codes, refitted, fmt)
    before, after = (row_errors(weight, back, factor.damped) for back in (first, last))
    assert bool((after <= before).all())
    assert float(after.sum()) < 0.99 * float(before.sum())
