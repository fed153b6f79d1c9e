"""Moments as a value: groups of rows, and moments of two sets of positions together."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mixq.calibration import Calibration
from mixq.errors import ModelError
from mixq.graph.find import find_units
from mixq.moments.collect import collect
from mixq.moments.moments import Moments, combined

LAYER = nn.Conv2d(4, 8, 3, groups=2)


def images(count: int, seed: int) -> Tensor:
    return torch.randn(count, 4, 6, 6, generator=torch.Generator().manual_seed(seed))


def moments_of(data: object, most_columns: int = 8192) -> Moments:
    units = find_units(LAYER)
    return collect(LAYER, Calibration.of(data), units, most_columns=most_columns)["weight"]


def test_groups_of_rows() -> None:
    found = moments_of(images(2, 0))
    assert (found.groups, found.columns, found.count) == (2, 18, 32)
    assert found.of_rows(8).tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("most_columns", [8192, 1], ids=["full", "diagonal"])
def test_combined_is_both_together(most_columns: int) -> None:
    parts = [images(3, 0), images(1, 1) + 2]
    a, b = (moments_of(part, most_columns) for part in parts)
    whole, both = moments_of(parts, most_columns), combined(a, b)
    assert torch.equal(both.counts, whole.counts)
    assert torch.allclose(both.mean, whole.mean, atol=1e-6)
    assert torch.allclose(both.diagonal, whole.diagonal, rtol=1e-5)
    assert (both.second is None) == (most_columns == 1)
    if both.second is not None and whole.second is not None:
        assert torch.allclose(both.second, whole.second, rtol=1e-4, atol=1e-5)


def test_combined_keeps_what_both_have() -> None:
    assert combined(moments_of(images(1, 0)), moments_of(images(1, 1), 1)).second is None


def test_combined_with_a_group_that_nothing_reached() -> None:
    met = Moments(torch.ones(2, 3), torch.ones(2, 3), torch.tensor([4, 0]))
    other = Moments(torch.full((2, 3), 5.0), torch.full((2, 3), 5.0), torch.tensor([12, 0]))
    both = combined(met, other)
    assert both.counts.tolist() == [16, 0]
    assert both.mean[0].tolist() == [4.0] * 3
    assert torch.equal(both.mean[1], met.mean[1])


def test_combined_refuses_other_shapes() -> None:
    other = Moments(torch.ones(2, 3), torch.ones(2, 3), torch.tensor([4, 4]))
    with pytest.raises(ModelError, match="2 groups x 18 columns cannot be combined with 2 x 3"):
        combined(moments_of(images(1, 0)), other)
