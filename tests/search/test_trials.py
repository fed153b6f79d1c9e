"""Trial: what is compared, and when a difference is noise."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixq.formats import Format
from mixq.search.limits import Totals
from mixq.search.trials import Proposal, Trial, paired_difference, within_noise

numbers = st.lists(st.floats(0, 1e3), min_size=2, max_size=6)


def trial(errors: tuple[float, ...], heldout: tuple[float, ...] | None = None) -> Trial:
    return Trial(
        Proposal("a", "tilted", {"a": Format(8)}), Totals(1.0, 1, 1.0, 1, 1.0), errors, heldout
    )


def test_heldout_errors_judge_where_there_are_any() -> None:
    assert trial((1.0, 3.0)).judged_error == 2.0
    assert trial((1.0, 3.0), (5.0,)).judged_error == 5.0
    assert trial((1.0, 3.0), (5.0,)).measured.error == 2.0
    assert trial((1.0,)).heldout is None


@settings(derandomize=True, deadline=None, max_examples=100)
@given(ours=numbers, shift=st.floats(0, 10))
def test_a_constant_difference_has_no_noise(ours: list[float], shift: float) -> None:
    difference = paired_difference([value + shift for value in ours], ours)
    # Each of the sums is rounded to a relative 2^-53 of at most 1010.
    assert math.isclose(difference.error, shift, abs_tol=1e-12)
    assert difference.error_se <= 1e-12


def test_unpaired_errors_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        paired_difference([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("ours", "theirs", "noise"),
    [
        (trial((1.0, 1.0)), trial((1.0, 1.0)), True),
        (trial((1.0, 1.0)), trial((2.0, 2.0)), False),
        (trial((0.0, 3.0)), trial((1.0, 1.0)), True),
        (trial((1.0,)), trial((1.0,)), True),
        (trial((1.0,)), trial((1.1,)), False),
        # The held-out sample turns a clear win into noise.
        (trial((1.0, 1.0), (9.0,)), trial((2.0, 2.0), (2.0,)), True),
        (trial((1.0, 1.0), (9.0,)), trial((2.0, 2.0)), False),
    ],
    ids=["same", "apart", "spread", "one-sample", "one-apart", "heldout", "one-heldout"],
)
def test_within_noise(ours: Trial, theirs: Trial, noise: bool) -> None:
    assert within_noise(ours, theirs) is noise
    assert within_noise(theirs, ours) is noise
