"""Standard errors: the usual ones where there are such, and of differences by document."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixq.harness.jackknife import GROUPS, difference_error, standard_error

NUMBERS = st.lists(st.floats(-100, 100), min_size=2, max_size=40)


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def perplexity(values: list[tuple[float, int]]) -> float:
    return math.exp(-sum(loss for loss, _ in values) / sum(count for _, count in values))


@settings(max_examples=60, deadline=None)
@given(NUMBERS)
def test_of_a_mean_it_is_the_usual_one(values: list[float]) -> None:
    expected = statistics.stdev(values) / math.sqrt(len(values))
    assert standard_error(values, mean) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(NUMBERS, st.floats(-5, 5))
def test_what_all_documents_lose_alike_is_known_exactly(values: list[float], loss: float) -> None:
    after = [value - loss for value in values]
    error = difference_error(values, after, mean)
    # Subtraction rounds to 1e-14 of 105, and each mean again.
    assert error == pytest.approx(0, abs=1e-11)


def test_of_a_mean_difference_it_is_that_of_the_differences() -> None:
    before, after = [1.0, 0, 1, 1, 0, 1], [1.0, 0, 0, 1, 1, 0]
    changes = [b - a for a, b in zip(before, after, strict=True)]
    expected = statistics.stdev(changes) / math.sqrt(len(changes))
    assert difference_error(before, after, mean) == pytest.approx(expected)


def test_of_a_perplexity_it_is_near_the_delta_method() -> None:
    values = [(-20.0 - index % 7, 5 + index % 3) for index in range(150)]
    rate = math.log(perplexity(values))
    weight = mean([float(count) for _, count in values])
    residuals = [(-loss - rate * count) / weight for loss, count in values]
    expected = perplexity(values) * statistics.stdev(residuals) / math.sqrt(len(values))
    assert standard_error(values, perplexity) == pytest.approx(expected, rel=0.05)


def test_many_documents_are_left_out_in_parts() -> None:
    generator = random.Random(0)
    values = [generator.random() for _ in range(10 * GROUPS)]
    expected = statistics.stdev(values) / math.sqrt(len(values))
    # The deviation of 200 groups is known to 1 / sqrt(400), 5%; three of those.
    assert standard_error(values, mean) == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("values", [[], [1.0]], ids=["none", "one"])
def test_there_is_none_of_too_few(values: list[float]) -> None:
    assert standard_error(values, mean) is None


def test_there_is_none_where_an_average_fails() -> None:
    assert standard_error([0.0, 0.0, 1.0], lambda kept: 1 / sum(kept)) is None
