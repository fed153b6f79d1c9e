"""Mean and standard error against numpy, and the laws of the error of a sample."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mixq.sensitivity.estimate import Estimate
from mixq.sensitivity.outputs import squared_error

LAWS = settings(derandomize=True, deadline=None, max_examples=60)
ERRORS = st.lists(st.floats(0, 1e12), min_size=1, max_size=30)


@LAWS
@given(ERRORS)
def test_of_is_numpy(errors: list[float]) -> None:
    estimate = Estimate.of(errors)
    count = len(errors)
    # numpy adds in another order: at most `count` roundings of the largest number.
    slack = count * np.finfo(float).eps * max(errors)
    assert estimate.error == pytest.approx(np.mean(errors), rel=1e-12)
    expected = np.std(errors, ddof=1) / math.sqrt(count) if count > 1 else 0.0
    assert estimate.error_se == pytest.approx(expected, rel=1e-9, abs=slack)
    assert estimate.samples == count


@LAWS
@given(ERRORS)
def test_the_order_of_samples_does_not_matter(errors: list[float]) -> None:
    estimate, other = Estimate.of(errors), Estimate.of(sorted(errors))
    assert (estimate.error, estimate.error_se) == (other.error, other.error_se)


@LAWS
@given(st.floats(0, 1e12), st.integers(2, 9))
def test_equal_samples_have_no_spread(error: float, count: int) -> None:
    estimate = Estimate.of([error] * count)
    assert estimate.error == pytest.approx(error, rel=1e-15)
    assert estimate.error_se <= error * 1e-15


def tensors(shape: tuple[int, ...]) -> st.SearchStrategy[Tensor]:
    size = math.prod(shape)
    numbers = st.lists(st.floats(-100, 100, width=32), min_size=size, max_size=size)
    return numbers.map(lambda values: torch.tensor(values).view(shape))


SHAPES = st.sampled_from([(3,), (3, 1), (3, 2, 2)])


@LAWS
@given(SHAPES.flatmap(lambda shape: st.tuples(tensors(shape), tensors(shape))))
def test_squared_error_is_a_distance(pair: tuple[Tensor, Tensor]) -> None:
    first, second = pair
    batch = torch.zeros(3, 4)
    error = squared_error(first, second, batch)
    assert error.shape == (3,)
    assert error.dtype == torch.float64
    assert torch.equal(error, squared_error(second, first, batch))
    assert torch.equal(squared_error(first, first, batch), torch.zeros(3, dtype=torch.float64))
    exact = (first - second).double().square().reshape(3, -1).mean(1)
    torch.testing.assert_close(error, exact, rtol=1e-6, atol=1e-30)


def test_halves_do_not_overflow() -> None:
    output = torch.full((2, 4), 60000.0, dtype=torch.float16)
    error = squared_error(output, -output, torch.zeros(2, 1))
    assert error.tolist() == [120000.0**2] * 2


def test_doubles_keep_their_digits() -> None:
    output = torch.ones(2, 4, dtype=torch.float64)
    error = squared_error(output + 1e-10, output, torch.zeros(2, 1))
    assert error.tolist() == pytest.approx([1e-20] * 2, rel=1e-5, abs=0)


@pytest.mark.parametrize("shape", [(), (5,), (5, 2)], ids=["number", "other", "matrix"])
def test_what_counts_no_samples_is_one(shape: tuple[int, ...]) -> None:
    error = squared_error(torch.full(shape, 3.0), torch.ones(shape), torch.zeros(3, 4))
    assert error.tolist() == [4.0]


MASK = torch.tensor([[1, 0], [0, 0], [1, 1]])
OUTPUT = torch.tensor([[1.0, 9.0], [9.0, 9.0], [1.0, 3.0]])


@pytest.mark.parametrize(
    ("output", "mask", "expected"),
    [
        (OUTPUT[..., None].expand(3, 2, 4), MASK, [1.0, 0.0, 5.0]),
        (OUTPUT, MASK, [41.0, 81.0, 5.0]),  # (samples, classes): the mask means something else
        (OUTPUT[..., None], MASK[:, :1], [41.0, 81.0, 5.0]),
        (OUTPUT[..., None], None, [41.0, 81.0, 5.0]),
    ],
    ids=["tokens", "classes", "misfit", "none"],
)
def test_attention_mask(output: Tensor, mask: Tensor | None, expected: list[float]) -> None:
    batch = {"input_ids": torch.zeros(3, 2)}
    if mask is not None:
        batch["attention_mask"] = mask
    assert squared_error(output, torch.zeros_like(output), batch).tolist() == expected


def test_a_mean_error_below_zero_is_none() -> None:
    """Its standard error stays: that of the increases themselves."""
    plain, error = Estimate.of([-3.0, 1.0]), Estimate.of_errors([-3.0, 1.0])
    assert plain.error == -1.0
    assert (error.error, error.error_se, error.samples) == (0.0, plain.error_se, 2)
    assert Estimate.of_errors([1.0, 3.0]) == Estimate.of([1.0, 3.0])
