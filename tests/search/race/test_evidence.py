"""Evidence: entries that are known from different samples are made comparable."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mixq.formats import Format
from mixq.search.race.evidence import (
    FEW,
    FIRST_COMMON,
    FIRST_SPREAD,
    SATURATION,
    Belief,
    Entry,
    Evidence,
)
from mixq.sensitivity.estimate import Estimate

W4, W2 = Format.parse("w4g64"), Format.parse("w2g64")
NOISE = 0.5


def entry(index: int, fmt: Format = W4) -> Entry:
    return f"unit{index}", fmt


def sketches(values: dict[Entry, float]) -> dict[Entry, Estimate]:
    return {key: Estimate(value, value, 4) for key, value in values.items()}


def measured(rows: dict[Entry, list[float]], known: dict[Entry, float] | None = None) -> Evidence:
    """One level for each sample."""
    evidence = Evidence(sketches(known or {}), NOISE)
    for key, row in rows.items():
        for value in row:
            evidence.add(key, [value])
    return evidence


def test_what_is_measured_alike_is_its_mean() -> None:
    evidence = measured({entry(0): [1.0, 3.0], entry(1): [2.0, 4.0]})
    beliefs = evidence.beliefs()
    assert [beliefs[entry(i)].error for i in (0, 1)] == [2.0, 3.0]
    assert evidence.level(entry(0)) == 2
    assert evidence.level(entry(7)) == 0


def test_fewer_samples_are_scaled_by_how_the_others_grew() -> None:
    """The second sample doubles every error, so the mean of both is 1.5 times the first."""
    rows = {entry(i): [float(i), 2.0 * i] for i in range(1, 6)} | {entry(9): [7.0]}
    assert measured(rows).beliefs()[entry(9)].error == pytest.approx(1.5 * 7.0, rel=1e-12)


def test_sketches_are_corrected_by_measured_entries_of_their_width() -> None:
    known = {entry(i, f): float(i + 1) for i in range(FEW + 2) for f in (W4, W2)}
    rows = {entry(i): [1.1 * (i + 1)] for i in range(FEW)}
    rows |= {entry(i, W2): [3.0 * (i + 1)] for i in range(FEW)}
    beliefs = measured(rows, known).beliefs()
    last = FEW + 1
    assert beliefs[entry(last)].error == pytest.approx(1.1 * (last + 1), rel=1e-12)
    assert beliefs[entry(last, W2)].error == pytest.approx(3.0 * (last + 1), rel=1e-12)
    assert beliefs[entry(last)].spread == pytest.approx(0.0, abs=1e-9)  # they all agreed


@pytest.mark.parametrize(
    ("widths", "factor"),
    [
        pytest.param([W4] * (FEW - 1), 1.0, id="few of any width: as they are"),
        pytest.param([W4] * FEW, 2.0, id="none of its own width: as the others"),
    ],
)
def test_sketches_without_company(widths: list[Format], factor: float) -> None:
    known = {entry(i, f): 1.0 for i, f in enumerate(widths)} | {entry(99, W2): 1.0}
    rows = {entry(i, f): [2.0] for i, f in enumerate(widths)}
    found = measured(rows, known).beliefs()[entry(99, W2)]
    assert found.error == pytest.approx(factor)
    assert found.spread == math.hypot(SATURATION, NOISE)


def test_a_few_measurements_and_many_sketches_are_fused() -> None:
    """Equal spreads: the geometric mean; sketched on no more samples: what is measured."""
    spread = math.hypot(SATURATION, NOISE)
    factor = (FIRST_SPREAD / spread) ** 2  # measured twice as well as sketched, in variances
    known = {entry(0): Estimate(4.0, 1.0, 2), entry(1): Estimate(4.0, 1.0, 1)}
    evidence = Evidence(known, NOISE)
    for key in known:
        evidence.add(key, [1.0])
    beliefs = evidence.beliefs()
    share = 1 / (1 + factor)
    assert beliefs[entry(0)].error == pytest.approx(4.0 ** (1 - share))
    assert beliefs[entry(0)].spread == pytest.approx(
        1 / math.sqrt(1 / spread**2 + 1 / FIRST_SPREAD**2)
    )
    assert beliefs[entry(1)] == Belief(1.0, FIRST_SPREAD)


def test_spreads_are_recovered_from_errors_that_were_made_of_them() -> None:
    """Two-way log-normal errors; the tolerances are three standard errors of the spreads."""
    chance = np.random.default_rng(0)
    units, samples, own, common = 40, 30, 0.2, 0.6
    logs = (
        chance.normal(0, 2, (units, 1))
        + chance.normal(0, common, (1, samples))
        + chance.normal(0, own, (units, samples))
    )
    evidence = measured({entry(i): np.exp(logs[i]).tolist() for i in range(units)})
    belief, estimate = evidence.beliefs()[entry(0)], evidence.estimates()[entry(0)]
    found_own = belief.spread * math.sqrt(samples)
    assert found_own == pytest.approx(own, rel=3 / math.sqrt(2 * units * samples))
    relative = estimate.error_se / estimate.error * math.sqrt(samples)
    found_common = math.sqrt(relative**2 - found_own**2)
    assert found_common == pytest.approx(common, rel=3 / math.sqrt(2 * samples))
    assert estimate.samples == samples


@pytest.mark.parametrize("samples", [1, 2])
def test_spreads_before_they_are_known(samples: int) -> None:
    evidence = measured({entry(i): [1.0 + i] * samples for i in range(FEW - 1)})
    assert not evidence.compares_samples
    assert evidence.beliefs()[entry(0)].spread == FIRST_SPREAD / math.sqrt(samples)
    expected = math.hypot(FIRST_SPREAD, FIRST_COMMON) / math.sqrt(samples)
    assert evidence.estimates()[entry(0)].error_se == pytest.approx(expected)


def test_zeros_and_gains_are_no_trouble() -> None:
    """32 bits err by nothing; a user's own loss may fall."""
    rows = {entry(0): [0.0, 0.0], entry(1): [0.0], entry(2): [-1.0, 0.5], entry(3): [2.0, 2.0]}
    beliefs = measured(rows, {entry(5): 0.0}).beliefs()
    assert [beliefs[entry(i)].error for i in (0, 1, 2, 3, 5)] == [0.0, 0.0, 0.0, 2.0, 0.0]
    assert all(math.isfinite(belief.spread) for belief in beliefs.values())


def test_nothing_at_all() -> None:
    assert Evidence({}, NOISE).beliefs() == {}
    assert Evidence({}, NOISE).estimates() == {}
