"""Observers: streams, laws, and comparison with searches that try everything."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mixq.activations.clipping import FRACTIONS, percentile_range, squared_error_range
from mixq.activations.fake import fake_static
from mixq.activations.histogram import BINS, Histogram
from mixq.activations.input_range import InputRange
from mixq.activations.observers import ObserverName, make_observer
from mixq.errors import CalibrationError, UsageError

NAMES: tuple[ObserverName, ...] = get_args(ObserverName)
LAWS = settings(derandomize=True, deadline=None, max_examples=25)

finite = st.floats(-(2.0**100), 2.0**100, width=32)
streams = st.lists(
    st.lists(finite, min_size=1, max_size=30).map(torch.tensor), min_size=1, max_size=4
)
"""Batches of any magnitudes."""
scales = st.floats(1e-6, 1e6)


@st.composite
def heavy_tailed(draw: st.DrawFn) -> Tensor:
    """A few hundred numbers, most of them small, of one or both signs."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    x = torch.randn(draw(st.integers(1, 600)), generator=generator)
    x = x * (1 + x.abs() ** draw(st.integers(0, 5)))
    if draw(st.booleans()):
        x = x.relu()
    return x * draw(scales)


def observed(name: ObserverName, batches: list[Tensor]) -> InputRange:
    observer = make_observer(name)
    for batch in batches:
        observer.see(batch)
    return observer.range()


def squared_error(x: Tensor, found: InputRange) -> float:
    difference = fake_static(x, *found.steps()).double() - x.double()
    return float(difference.square().sum())


def test_minmax_is_the_range_stretched_to_zero() -> None:
    assert observed("minmax", [torch.tensor([1.0, 3.0])]) == InputRange(0.0, 3.0)
    assert observed("minmax", [torch.tensor([-2.0]), torch.tensor([5.0])]) == InputRange(-2.0, 5.0)


@pytest.mark.parametrize("name", NAMES)
@given(streams)
@LAWS
def test_ranges_lie_within_what_was_seen(name: ObserverName, batches: list[Tensor]) -> None:
    found, seen = observed(name, batches), torch.cat(batches)
    assert min(float(seen.min()), 0.0) <= found.low <= 0
    assert 0 <= found.high <= max(float(seen.max()), 0.0)


@pytest.mark.parametrize("name", NAMES)
@given(streams)
@LAWS
def test_order_and_batches_do_not_matter(name: ObserverName, batches: list[Tensor]) -> None:
    together = observed(name, [torch.cat(batches)])
    assert observed(name, batches) == together
    assert observed(name, batches[::-1]) == together


@given(heavy_tailed())
@LAWS
def test_mse_is_never_worse_than_minmax(x: Tensor) -> None:
    assert squared_error(x, observed("mse", [x])) <= squared_error(x, observed("minmax", [x]))


def test_mse_is_not_misled_by_its_bins() -> None:
    full, narrow = InputRange(0.0, 1.0), InputRange(0.0, 60 / 64)
    histogram = Histogram()
    histogram.add(torch.ones(1))

    def gain(x: Tensor) -> Tensor:
        """How much less each squared error is with the narrow range."""
        squares = [(fake_static(x, *r.steps()).double() - x).square() for r in (full, narrow)]
        return squares[0] - squares[1]

    # Numbers that lose by the narrow range while the middles of their bins gain.
    x = torch.arange(1, 250_000) / 2**18
    middles = ((x / histogram.width).floor() + 0.5) * histogram.width
    x = x[(gain(x) < 0) & (gain(middles) > 0)]
    x = torch.cat((x.repeat(64), torch.ones(1)))
    middles = ((x / histogram.width).floor() + 0.5) * histogram.width
    assert gain(x).sum() < 0 < gain(middles.clamp(max=1)).sum()
    assert squared_error(x, observed("mse", [x])) <= squared_error(x, full)


@pytest.mark.parametrize("one_sided", [False, True], ids=["two-sided", "one-sided"])
def test_mse_finds_what_trying_everything_finds(one_sided: bool) -> None:
    # Clipping one number pays if there are enough others: 255^2 / 12 times as many, and more.
    x = torch.randn(10**6, generator=torch.Generator().manual_seed(1))
    x = torch.cat((x.abs() if one_sided else x, torch.tensor([50.0])))
    full, found = observed("minmax", [x]), observed("mse", [x])
    lows = [0.0] if one_sided else [full.low * k / 4 for k in range(1, 5)]
    highs = [full.high * k / FRACTIONS for k in range(1, FRACTIONS + 1, 1 if one_sided else 5)]
    tried = [squared_error(x, InputRange(low, high)) for low in lows for high in highs]
    # One bin is at most 1/8192 of the range; see squared_error_range for the bound.
    doubt = (full.high - full.low) / (BINS / 2) * math.sqrt(len(x))
    assert math.sqrt(squared_error(x, found)) <= math.sqrt(min(tried)) + doubt
    assert squared_error(x, found) < 0.8 * squared_error(x, full)


@given(heavy_tailed(), st.sampled_from([50.0, 90.0, 99.0, 99.9]))
@LAWS
def test_percentile_leaves_out_no_more_than_it_says(x: Tensor, percentile: float) -> None:
    histogram = Histogram()
    histogram.add(x)
    low, high = percentile_range(histogram, percentile)
    allowed = len(x) * (100 - percentile) / 200 + 1e-6
    assert int((x < low).sum()) <= allowed
    assert int((x > high).sum()) <= allowed
    # One bin further in would leave out too many.
    if high == histogram.high or low == histogram.low:
        return
    assert int((x > high - histogram.width).sum()) + 1 > allowed
    assert int((x < low + histogram.width).sum()) + 1 > allowed


def test_percentile_drops_the_outliers() -> None:
    x = torch.cat((torch.rand(9_990), torch.full((10,), 1e3)))
    found = observed("percentile", [x])  # 5 of 10,000 may go on either side
    assert found == InputRange(0.0, 1e3)
    x = torch.cat((torch.rand(9_995), torch.full((5,), 1e3)))
    assert 0.99 < observed("percentile", [x]).high < 1.2


def brute_divergence(x: np.ndarray[tuple[int], np.dtype[np.float64]], high: float) -> float:
    """Migacz's divergence for numbers above zero and one threshold, written out in loops."""
    width = 2.0 ** math.ceil(math.log2(x.max() / 4096))
    counts = np.bincount((x // width).astype(int))
    ends = np.minimum((np.arange(len(counts)) + 1) * width, x.max())
    middles = (np.arange(len(counts)) * width + ends) / 2
    inside = middles <= high
    if inside.sum() < 256 and high < x.max():
        return math.inf
    codes = np.rint(middles / (high / 255)).clip(0, 255)
    reference = counts[inside].astype(float)
    reference[-1] += counts[~inside].sum()
    spread = np.zeros(len(reference))
    for level in range(256):
        members = np.flatnonzero((codes[inside] == level) & (counts[inside] > 0))
        if len(members):
            spread[members] = counts[inside][members].sum() / len(members)
    total = 0.0
    for p, q in zip(reference / reference.sum(), spread / spread.sum(), strict=True):
        if p > 0:
            total += p * math.log(p / q) if q > 0 else math.inf
    return total


# With the last, a range of less than 256 bins would be the best if it were allowed.
@pytest.mark.parametrize(("power", "seed"), [(2, 0), (3, 0), (4, 0), (6, 0)])
def test_entropy_is_migacz_for_one_sided_numbers(power: int, seed: int) -> None:
    x = torch.randn(30_000, generator=torch.Generator().manual_seed(seed)).abs() ** power
    tried = {
        step: brute_divergence(x.double().numpy(), float(x.max()) * step / FRACTIONS)
        for step in range(FRACTIONS, 0, -1)
    }
    best = min(tried, key=lambda step: tried[step])
    found = observed("entropy", [x])
    assert found == InputRange(0.0, float(x.max()) * best / FRACTIONS)
    assert best < FRACTIONS  # it clips


def test_entropy_leaves_even_numbers_alone() -> None:
    x = torch.linspace(-1, 1, 100_001)
    found = observed("entropy", [x])
    assert found.low <= -0.98
    assert found.high >= 0.98


DEGENERATE = {
    "zeros": ([0.0, -0.0, 0.0], InputRange(0.0, 0.0)),
    "one": ([3.0], InputRange(0.0, 3.0)),
    "one-negative": ([-3.0], InputRange(-3.0, 0.0)),
    "constant": ([2.0] * 50, InputRange(0.0, 2.0)),
    "subnormal": ([1e-45, -1e-45], InputRange(-(2.0**-149), 2.0**-149)),
}


@pytest.mark.parametrize(("numbers", "expected"), DEGENERATE.values(), ids=DEGENERATE)
@pytest.mark.parametrize("name", NAMES)
def test_degenerate_activations(
    name: ObserverName, numbers: list[float], expected: InputRange
) -> None:
    assert observed(name, [torch.tensor(numbers)]) == expected


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")], ids=str)
def test_nan_and_infinity_are_refused(name: ObserverName, bad: float) -> None:
    observer = make_observer(name)
    with pytest.raises(CalibrationError, match="NaN or infinity"):
        observer.see(torch.tensor([1.0, bad, 2.0]))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_seen_has_no_range(name: ObserverName) -> None:
    observer = make_observer(name)
    observer.see(torch.empty(0, 4))
    with pytest.raises(CalibrationError, match="no activations were seen"):
        observer.range()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_dtypes_count_as_float32(name: ObserverName, dtype: torch.dtype) -> None:
    x = torch.randn(200, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert observed(name, [x]) == observed(name, [x.float()])


def test_unknown_observer() -> None:
    with pytest.raises(UsageError, match="observer is 'median'"):
        make_observer("median")  # type: ignore[arg-type]


@given(streams)
@LAWS
def test_histogram_counts_every_number_in_its_bin(batches: list[Tensor]) -> None:
    histogram = Histogram()
    for batch in batches:
        histogram.add(batch)
    x = torch.cat(batches).double()
    edges = histogram.edges()
    assert len(histogram.counts) <= BINS
    assert histogram.total == len(x)
    assert histogram.zeros == int((x == 0).sum())
    kept = x[x != 0]
    index = torch.searchsorted(edges, kept, right=True) - 1
    assert torch.equal(torch.bincount(index, minlength=len(histogram.counts)), histogram.counts)
    # No finer bins would do, but where float32 itself ends.
    if histogram.exponent > -149:
        ends = torch.tensor([histogram.low, histogram.high]).double() / (histogram.width / 2)
        assert ends.floor().diff().item() >= BINS


def test_histogram_coarsens_as_if_made_coarse() -> None:
    x = torch.randn(5_000, generator=torch.Generator().manual_seed(0))
    histogram = Histogram()
    histogram.add(x)
    coarse = histogram.coarsened(100)
    assert len(coarse.counts) <= 100
    assert coarse.total == histogram.total
    index = torch.floor(x.double() / coarse.width).long() - coarse.first
    assert torch.equal(torch.bincount(index, minlength=len(coarse.counts)), coarse.counts)
    assert len(histogram.counts) > 100  # the original is as it was


def test_large_batches_are_counted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1_000, generator=torch.Generator().manual_seed(0))
    whole, parts = Histogram(), Histogram()
    whole.add(x)
    monkeypatch.setattr("mixq.activations.histogram.CHUNK", 7)
    parts.add(x)
    assert torch.equal(whole.counts, parts.counts)


def test_zeros_do_not_hold_the_range_back() -> None:
    tail = torch.randn(20_000, generator=torch.Generator().manual_seed(1)).abs() ** 5
    with_zeros, without = Histogram(), Histogram()
    with_zeros.add(torch.cat((tail, torch.zeros(200_000))))
    without.add(tail)
    assert squared_error_range(with_zeros) == squared_error_range(without)
