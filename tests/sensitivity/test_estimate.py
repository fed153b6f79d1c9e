"""Mean, standard error and interval: against numpy, by their laws, and by how often they cover."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

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
    assert estimate.per_sample == tuple(errors)


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


MEASURED = st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=30)
Numbers = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


@pytest.mark.parametrize(
    ("samples", "quantile"), [(2, 12.70620), (3, 4.302653), (8, 2.364624), (31, 2.042272)]
)
def test_margin_is_student(samples: int, quantile: float) -> None:
    """Quantiles of t at 0.975 from the tables (Abramowitz, Stegun, table 26.10)."""
    assert Estimate(1.0, 0.5, samples).margin() == pytest.approx(quantile / 2, rel=1e-6)


@LAWS
@given(MEASURED)
def test_the_interval_holds_the_error(errors: list[float]) -> None:
    estimate = Estimate.of(errors)
    low, high = estimate.interval()
    # One rounding of the error, where the samples hardly spread.
    assert 0 <= low <= estimate.error * (1 + 1e-15)
    assert estimate.error * (1 - 1e-15) <= high < math.inf
    wider_low, wider_high = estimate.interval(0.99)
    assert wider_low <= low
    assert high <= wider_high


@LAWS
@given(MEASURED, st.integers(-20, 20))
def test_the_interval_scales_with_the_errors(errors: list[float], power: int) -> None:
    """Exactly: powers of two round nothing."""
    factor = 2.0**power
    low, high = Estimate.of(errors).interval()
    scaled = Estimate.of([factor * error for error in errors]).interval()
    assert scaled == (factor * low, factor * high)


@LAWS
@given(st.lists(st.floats(0.1, 10), min_size=3, max_size=20))
def test_the_interval_reaches_as_far_as_each_it_is_made_of(errors: list[float]) -> None:
    """Hall's ends by his own definition: where the transform of t is Student's quantile."""
    estimate = Estimate.of(errors)
    low, high = estimate.interval()
    margin, n = estimate.margin(), len(errors)
    assert low <= max(estimate.error - margin, 0)
    assert high >= estimate.error * math.exp(margin / estimate.error) * (1 - 1e-12)
    if estimate.error_se < 1e-6:  # the skewness of a rounding error means nothing
        return
    spread = estimate.error_se * math.sqrt(n)
    third = sum(((error - estimate.error) / spread) ** 3 for error in errors)
    a = third * n / ((n - 1) * (n - 2)) / math.sqrt(n)

    def transform(mean: float) -> float:
        t = (estimate.error - mean) / estimate.error_se
        return t + a * t**2 / 3 + a**2 * t**3 / 27 + a / 6

    quantile = margin / estimate.error_se
    # It falls as the mean grows: beyond both ends it is beyond both quantiles.
    assert transform(high) <= -quantile * (1 - 1e-6)
    assert low == 0 or transform(low) >= quantile * (1 - 1e-6)


@pytest.mark.parametrize(
    ("errors", "interval"),
    [([0.0], (0.0, 0.0)), ([0.0, 0.0], (0.0, 0.0)), ([3.0], (0.0, math.inf))],
    ids=["zero", "zeros", "one"],
)
def test_what_has_no_spread(errors: list[float], interval: tuple[float, float]) -> None:
    assert Estimate.of(errors).interval() == interval


def test_an_interval_without_samples_is_that_of_no_skewness() -> None:
    low, high = Estimate(1.0, 0.1, 8).interval()
    assert low == pytest.approx(1 - 0.2364624, rel=1e-6)
    assert high == pytest.approx(math.exp(0.2364624), rel=1e-6)


def test_the_largest_numbers_have_an_interval() -> None:
    low, high = Estimate(1e300, 1e308, 2).interval()
    assert (low, high) == (0.0, math.inf)


POPULATIONS: dict[str, tuple[float, Callable[[np.random.Generator, tuple[int, int]], Numbers]]] = {
    "even": (1.0, lambda chance, shape: chance.normal(1, 0.1, shape)),
    "lognormal": (math.exp(0.125), lambda chance, shape: chance.lognormal(0, 0.5, shape)),
    "exponential": (1.0, lambda chance, shape: chance.exponential(1, shape)),
    # What two random signs give on samples that differ: the errors of a sketch.
    "sketch": (
        math.exp(0.045),
        lambda chance, shape: chance.lognormal(0, 0.3, shape) * chance.chisquare(2, shape) / 2,
    ),
}
"""Of errors by sample: the true mean, and samples of it."""


def covered(population: str, samples: int, interval: Callable[[Estimate], Any]) -> float:
    """Share of 200 resamplings whose interval holds the true mean."""
    mean, draw = POPULATIONS[population]
    drawn = draw(np.random.default_rng(samples), (200, samples))
    ends = [interval(Estimate.of(row)) for row in drawn.tolist()]
    hits: int = sum(low <= mean <= high for low, high in ends)
    return hits / 200


@pytest.mark.parametrize("samples", [4, 8, 16, 32, 64])
@pytest.mark.parametrize("population", POPULATIONS)
def test_stated_intervals_cover(population: str, samples: int) -> None:
    """The rule of the plan of this project: between 90% and 99% of 200 resamplings."""
    assert 0.9 <= covered(population, samples, Estimate.interval) <= 0.99


def test_a_narrower_interval_does_not() -> None:
    def normal(estimate: Estimate) -> tuple[float, float]:
        return estimate.error - 1.96 * estimate.error_se, estimate.error + 1.96 * estimate.error_se

    assert covered("sketch", 4, normal) < 0.8
    assert covered("exponential", 4, normal) < 0.85


def test_a_mean_error_below_zero_is_none() -> None:
    """Its standard error stays: that of the increases themselves."""
    plain, error = Estimate.of([-3.0, 1.0]), Estimate.of_errors([-3.0, 1.0])
    assert plain.error == -1.0
    assert (error.error, error.error_se, error.samples) == (0.0, plain.error_se, 2)
    assert Estimate.of_errors([1.0, 3.0]) == Estimate.of([1.0, 3.0])
