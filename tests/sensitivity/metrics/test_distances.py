"""Distances: their formulas, laws, masks and probes; exact where the mathematics is."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor
from torch.nn import functional

from mixq.batch import Batch
from mixq.sensitivity.metrics.divergence import Divergence
from mixq.sensitivity.metrics.metric import Distance

from .helpers import METRICS, all_signs, masked, normal

PLAIN = torch.zeros(3, 1)
"""A batch of three samples without a mask."""
distances = pytest.mark.parametrize("distance", METRICS.values(), ids=METRICS)
numbers = st.floats(-50, 50, width=32)
pairs = st.tuples(
    *(arrays.arrays("float32", (3, 4), elements=numbers).map(torch.from_numpy) for _ in range(2))
)

FORMULAS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": lambda y, other: functional.mse_loss(other, y, reduction="none").mean(1),
    "relative": lambda y, other: (other - y).norm(dim=1) ** 2 / y.norm(dim=1) ** 2,
    "kl": lambda y, other: functional.kl_div(
        other.log_softmax(1), y.softmax(1), reduction="none"
    ).sum(1),
    "cosine": lambda y, other: 1 - functional.cosine_similarity(y, other),
}


@pytest.mark.parametrize("name", METRICS)
def test_formulas_are_those_of_torch(name: str) -> None:
    y, other = normal(3, 7), normal(3, 7, seed=1)
    expected = FORMULAS[name](y, other)
    torch.testing.assert_close(METRICS[name].errors(other, y, PLAIN), expected)


@distances
@given(pair=pairs)
def test_no_error_is_negative_and_none_is_without_a_change(
    distance: Distance, pair: tuple[Tensor, Tensor]
) -> None:
    y, other = pair
    if distance.check(y, PLAIN) is None:
        errors = distance.errors(other, y, PLAIN)
        assert errors.dtype == torch.float64
        assert bool((errors >= 0).all())
        assert distance.errors(y.clone(), y, PLAIN).tolist() == [0.0] * 3


@distances
def test_samples_do_not_know_of_each_other(distance: Distance) -> None:
    y, other = normal(3, 2, 5), normal(3, 2, 5, seed=1)
    together = distance.errors(other, y, PLAIN)
    alone = [distance.errors(other[i : i + 1], y[i : i + 1], PLAIN[:1]) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("cosine", lambda y: 8 * y),
        ("kl", lambda y: y + 16),  # powers of two are exact, sums of them nearly
    ],
    ids=["scale", "shift"],
)
def test_what_a_metric_is_blind_to(name: str, change: Callable[[Tensor], Tensor]) -> None:
    y, other = normal(3, 7), normal(3, 7, seed=1)
    distance = METRICS[name]
    assert distance.errors(change(y), y, PLAIN).tolist() == pytest.approx([0.0] * 3, abs=1e-15)
    expected = distance.errors(other, y, PLAIN).tolist()
    assert distance.errors(change(other), y, PLAIN).tolist() == pytest.approx(expected, rel=1e-13)


def test_relative_errors_have_no_unit() -> None:
    y, other = normal(3, 7), normal(3, 7, seed=1)
    relative = METRICS["relative"]
    expected = relative.errors(other, y, PLAIN)
    assert torch.equal(relative.errors(4 * other, 4 * y, PLAIN), expected)


MASK = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]])


@distances
def test_padding_does_not_count_whatever_stands_there(distance: Distance) -> None:
    y, other = normal(3, 4, 5), normal(3, 4, 5, seed=1)
    for tensor in (y, other):
        tensor[MASK == 0] = math.nan
    found = distance.errors(other, y, masked(MASK)).tolist()
    for sample, length in enumerate((2, 4, 1)):
        (alone,) = distance.errors(
            other[sample : sample + 1, :length],
            y[sample : sample + 1, :length],
            masked(MASK[sample : sample + 1, :length]),
        ).tolist()
        assert found[sample] == pytest.approx(alone, rel=1e-14)
    assert distance.check(y, masked(MASK)) is None
    probe = distance.probe(y, masked(MASK), normal(3, 4, 5).sign())
    assert probe[MASK == 0].tolist() == [[0.0] * 5] * 5
    assert bool(probe[MASK == 1].isfinite().all())


@distances
def test_a_sample_without_a_position_has_no_error(distance: Distance) -> None:
    y, other = normal(2, 4, 5), normal(2, 4, 5, seed=1)
    mask = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1]])
    assert distance.check(y, masked(mask)) is None
    hidden, seen = distance.errors(other, y, masked(mask)).tolist()
    assert hidden == 0.0 < seen
    assert bool(distance.probe(y, masked(mask), normal(2, 4, 5).sign()).isfinite().all())


PROBED: dict[str, tuple[tuple[int, ...], Batch]] = {
    "classes": ((1, 5), torch.zeros(1, 1)),
    "samples": ((3, 3), PLAIN),
    "tokens": ((2, 2, 3), {"x": torch.zeros(2, 2)}),
    "mask": ((2, 2, 3), masked(torch.tensor([[1, 0], [1, 1]]))),
    "no-samples": ((2, 5), PLAIN),
}


@pytest.mark.parametrize(("shape", "batch"), PROBED.values(), ids=PROBED)
@distances
def test_probes_have_exactly_half_the_hessian(
    distance: Distance, shape: tuple[int, ...], batch: Batch
) -> None:
    """Over all signs there are, the mean of v v^T is the quadratic form, not an estimate of it.

    The form is taken from the errors themselves: with e(t) the mean error of the change t d,
    (e(t) + e(-t)) / (2 t^2) leaves out odd orders and is off by O(t^2) of the fourth.
    """
    y = normal(*shape)
    every = torch.stack([distance.probe(y, batch, signs) for signs in all_signs(*shape)])
    for seed in range(4):
        d, t = normal(*shape, seed=seed + 1), 1e-3
        form = (every * d).flatten(1).sum(1).square().mean().item()
        sides = [distance.errors(y + s * t * d, y, batch).mean().item() for s in (1, -1)]
        assert form == pytest.approx(sum(sides) / (2 * t * t), rel=1e-4)


def test_small_divergences_keep_their_digits() -> None:
    """Scores that differ by 1e-6, and 49,152 classes: float32 logarithms would leave noise."""
    y = normal(1, 49152, dtype=torch.float32)
    d = 1e-6 * normal(1, 49152, seed=1)
    p = y.double().softmax(1)
    expected = ((p * d * d).sum() - (p * d).sum() ** 2) / 2
    found = Divergence().errors(y.double() + d, y, torch.zeros(1, 1)).item()
    assert found == pytest.approx(expected.item(), rel=1e-3)


def test_positions_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    y, other = normal(2, 7, 5), normal(2, 7, 5, seed=1)
    batch = {"x": torch.zeros(2, 7)}
    whole = Divergence().errors(other, y, batch)
    probe = Divergence().probe(y, batch, normal(2, 7, 5).sign())
    monkeypatch.setattr("mixq.sensitivity.metrics.divergence.NUMBERS_AT_ONCE", 10)
    assert torch.equal(Divergence().errors(other, y, batch), whole)
    assert torch.equal(Divergence().probe(y, batch, normal(2, 7, 5).sign()), probe)


def test_an_output_that_vanishes_is_at_right_angles() -> None:
    y = normal(3, 4)
    assert METRICS["cosine"].errors(torch.zeros_like(y), y, PLAIN).tolist() == [1.0] * 3


ZERO = torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, 1.0]])
UNDEFINED: dict[str, tuple[str, Tensor, str]] = {
    "relative-zero": ("relative", ZERO, "is zero in all of sample 1"),
    "cosine-zero": ("cosine", ZERO, "is zero in all of sample 1"),
    "kl-one-class": ("kl", normal(3, 1), "shape (3, 1), but scores are (samples, classes)"),
    "kl-number": ("kl", normal(3), "shape (3,), but scores"),
    "kl-image": ("kl", normal(3, 2, 4, 4), "shape (3, 2, 4, 4), but scores"),
    "kl-probabilities": ("kl", normal(3, 5).softmax(1), "probabilities that add up to 1"),
}


@pytest.mark.parametrize(("name", "output", "words"), UNDEFINED.values(), ids=UNDEFINED)
def test_where_a_metric_is_not_defined(name: str, output: Tensor, words: str) -> None:
    assert words in (METRICS[name].check(output, PLAIN) or "")
    assert METRICS["mse"].check(output, PLAIN) is None


def test_log_probabilities_are_scores() -> None:
    y = normal(3, 5)
    assert METRICS["kl"].check(y.log_softmax(1), PLAIN) is None
    other = normal(3, 5, seed=1)
    torch.testing.assert_close(
        METRICS["kl"].errors(other.log_softmax(1), y.log_softmax(1), PLAIN),
        METRICS["kl"].errors(other, y, PLAIN),
    )
