from __future__ import annotations

import math

import pytest

from mixq.predict.agreement import Agreement, rank_correlation
from mixq.predict.prediction import Prediction


def test_errors_are_shares_of_what_was_measured() -> None:
    found = Agreement.of(
        [
            (10.0, Prediction(11.0, 10.5, 12.0, "k")),
            (10.0, Prediction(8.0, 7.0, 10.0, "k")),
            (4.0, Prediction(6.0, 5.0, 7.0, "k")),
            (1.0, Prediction(1.0, 0.5, 2.0, "k")),
        ]
    )
    assert found is not None
    assert found.count == 4
    assert found.median_error == pytest.approx(0.15)
    assert found.mean_error == pytest.approx(0.2)
    assert found.close_share == 0.75
    assert found.inside_share == 0.5


def test_nothing_measured() -> None:
    assert Agreement.of([]) is None


# Spearman's own definition: 1 - 6 sum d^2 / (n (n^2 - 1)) where no two are equal.
@pytest.mark.parametrize(
    ("second", "expected"),
    [([1, 2, 3, 4], 1.0), ([4, 3, 2, 1], -1.0), ([1, 3, 2, 4], 1 - 6 * 2 / 60)],
)
def test_rank_correlation(second: list[float], expected: float) -> None:
    assert rank_correlation([10, 20, 30, 40], second) == pytest.approx(expected)


@pytest.mark.parametrize("second", [[1.0, 1.0, 1.0], [1.0]])
def test_no_rank_correlation(second: list[float]) -> None:
    assert math.isnan(rank_correlation([1.0, 2.0, 3.0][: len(second)], second))
