"""Histograms of weights: what is counted, and what each width is said to do."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from mixq.errors import PlanError
from mixq.formats import Format
from mixq.quantize import counting
from mixq.quantize.counting import count_weights
from mixq.quantize.histogram import BINS, Histogram
from mixq.quantize.weights import round_trip


def weights(rows: int = 12, columns: int = 100) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(3))


def counted(weight: torch.Tensor) -> Histogram:
    found = count_weights(weight, *weight.shape, unit="u", error=0.5, error_format="w2g64")
    assert found is not None
    return found


def test_every_width_counts_every_weight() -> None:
    found = counted(weights())
    assert [(w.bits, w.format) for w in found.widths] == [
        (32, "w32"), (16, "w16"), (8, "w8g64"), (4, "w4g64"), (2, "w2g64")
    ]  # fmt: skip
    assert all(sum(w.counts) == found.counted == 1200 for w in found.widths)
    assert all(len(w.counts) == BINS for w in found.widths)


@pytest.mark.parametrize("place", range(1, 5))
def test_figures_are_those_of_the_stored_weights(place: int) -> None:
    """Bit for bit what mixq stores in the format that is named."""
    weight = weights()
    width = counted(weight).widths[place]
    stored = round_trip(weight, Format.parse(width.format), *weight.shape)
    lost = float((stored - weight).double().square().sum() / weight.double().square().sum())
    assert width.zero_share == float((stored == 0).double().mean())
    assert math.isclose(width.relative_error, lost, rel_tol=1e-5)


def test_errors_grow_as_bits_shrink() -> None:
    errors = [width.relative_error for width in counted(weights()).widths]
    assert errors[0] == 0
    assert errors == sorted(errors)


@pytest.mark.parametrize(("place", "numbers"), [(2, 255), (3, 15), (4, 3)], ids=["8", "4", "2"])
def test_a_grid_is_even_and_has_zero_and_lies_in_the_range(place: int, numbers: int) -> None:
    found = counted(weights())
    grid = found.widths[place].grid
    assert len(grid) == found.widths[place].representable == numbers
    assert grid[numbers // 2] == 0
    assert grid == sorted(grid)
    assert grid[-1] == -grid[0] <= found.limit * 1.001  # float16 may round a scale up
    steps = {round(b - a, 5) for a, b in pairwise(grid)}
    assert len(steps) == 1


def test_floats_are_counted_by_their_bit_patterns() -> None:
    """float16 from -1 to 1: 15360 patterns up to 1 on each side, and zero."""
    weight = torch.linspace(-1, 1, 64).reshape(1, 64)
    assert counted(weight).widths[1].representable == 2 * 0x3C00 + 1


def test_nothing_but_zeros_is_no_histogram() -> None:
    assert count_weights(torch.zeros(2, 4), 2, 4, unit="u", error=0, error_format="w2") is None


def test_weights_beyond_float16_do_without_it() -> None:
    weight = weights() * 1e6
    assert 16 not in [width.bits for width in counted(weight).widths]


def test_of_many_rows_some_are_counted_from_all_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "MOST_WEIGHTS", 300)
    weight = torch.arange(1.0, 11.0)[:, None].expand(10, 100)
    found = counted(weight)
    assert (found.weights, found.counted) == (1000, 300)
    assert found.limit == 7  # of rows 0, 3 and 6


def test_a_file_comes_back_and_a_damaged_one_does_not(tmp_path: Path) -> None:
    found = counted(weights())
    found.save(tmp_path / "h.json")
    assert Histogram.load(tmp_path / "h.json") == found
    (tmp_path / "h.json").write_text((tmp_path / "h.json").read_text().replace("1200", "-1"))
    with pytest.raises(PlanError, match="weights: "):
        Histogram.load(tmp_path / "h.json")
