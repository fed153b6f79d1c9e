"""Sums: as `math.fsum` rounds them, and honest about where they might not."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixq.search.exact.sums import rounded, running, two_sum

LAWS = settings(derandomize=True, deadline=None, max_examples=300)
FLOATS = st.floats(-1e300, 1e300)
TERMS = st.lists(st.floats(0, 1e300), min_size=1, max_size=30)


@LAWS
@given(FLOATS, FLOATS)
def test_a_sum_and_its_rest_are_exact(a: float, b: float) -> None:
    total, rest = two_sum(np.array([a]), np.array([b]))
    assert Fraction(total[0]) + Fraction(rest[0]) == Fraction(a) + Fraction(b)


def added(terms: list[float]) -> tuple[float, bool]:
    """One by one, with rests."""
    total, rests = np.zeros(1), np.zeros(1)
    for term in terms:
        total, rest = two_sum(total, np.array([term]))
        rests += rest
    totals, certain = rounded(total, rests, 2 * len(terms))
    return float(totals[0]), bool(certain[0])


@LAWS
@given(TERMS)
def test_what_is_certain_is_correctly_rounded(terms: list[float]) -> None:
    total, certain = added(terms)
    assert total == math.fsum(terms) or not certain


@LAWS
@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30))
def test_only_half_way_sums_are_doubted(terms: list[float]) -> None:
    total, certain = added(terms)
    ulp = Fraction(math.ulp(total))
    from_half_way = ulp / 2 - abs(sum(map(Fraction, terms)) - Fraction(total))
    # The doubt is 2 (2n)^2 u^2 of the sum, with n at most 30 and the sum below 2^53 ulp; below a
    # power of two an ulp is half as large.
    near = abs(from_half_way) < ulp * 2 * 60**2 * Fraction(2) ** -53
    assert certain or near or math.frexp(total)[0] == 0.5


@pytest.mark.parametrize(
    ("terms", "certain"),
    [
        ([1.0, 2.0**-53], False),
        ([1.0, 2.0**-53, 2.0**-106], False),
        ([1.0, 2.0**-53, 2.0**-80], True),
        ([1.0 + 2.0**-52, 2.0**-53], False),
        # The small ones are lost beside the rest, but together carry it past half way.
        ([1.5, 2.0**-53 - 2.0**-106, *[2.0**-108] * 5], False),
        ([0.0, 0.0], False),
        ([0.5, 0.25], True),
    ],
    ids=[
        "half-way",
        "above-by-less-than-the-doubt",
        "above",
        "half-way-to-even",
        "lost",
        "zero",
        "exact",
    ],
)
def test_half_way_cases_are_left_to_fsum(terms: list[float], certain: bool) -> None:
    assert added(terms)[1] is certain


@LAWS
@given(TERMS, st.data())
def test_a_running_sum_is_correctly_rounded_at_every_change(
    terms: list[float], data: st.DataObject
) -> None:
    terms = [term / 1e300 * 10.0 ** data.draw(st.integers(-300, 300)) for term in terms]
    present, changes, expected = list(terms), [], [math.fsum(terms)]
    for _ in range(data.draw(st.integers(0, 5))):
        gone = [present.pop()] if present else []
        come = data.draw(st.lists(st.floats(0, 1e10), max_size=3))
        present += come
        changes.append((gone, come))
        expected.append(math.fsum(present))
    assert running(terms, changes).tolist() == expected
