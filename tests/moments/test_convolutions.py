"""Moments of what convolutions read, against the windows of functional.unfold."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mixq.calibration import Calibration
from mixq.graph.find import find_units
from mixq.moments.collect import collect
from mixq.moments.moments import Moments


def moments_of(model: nn.Module, data: object, **options: object) -> dict[str, Moments]:
    return collect(model, Calibration.of(data), find_units(model), **options)  # type: ignore[arg-type]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def check(moments: Moments, *groups: Tensor) -> None:
    """The moments are those of the vectors (positions, columns) of each group."""
    assert moments.groups == len(groups)
    assert moments.counts.tolist() == [len(x) for x in groups]
    assert moments.count == min(map(len, groups))
    for index, x in enumerate(groups):
        wide, positions = x.double(), max(len(x), 1)
        size = wide.square().sum(0) / positions
        # Of a sum of `positions` float32 products, relative to the sizes of their factors.
        slack = (positions + 8) * 2.0**-24
        allowed = slack * torch.outer(size.sqrt(), size.sqrt()) + 1e-30
        assert moments.second is not None
        assert moments.second.dtype == moments.mean.dtype == torch.float32
        difference = moments.second[index].double() - wide.mT @ wide / positions
        assert bool((difference.abs() <= allowed).all())
        assert torch.equal(moments.diagonal[index], moments.second[index].diagonal())
        assert torch.equal(moments.second[index], moments.second[index].mT)
        difference = moments.mean[index].double() - wide.sum(0) / positions
        assert bool((difference.abs() <= slack * size.sqrt() + 1e-30).all())


class TestConvolutions:
    @pytest.mark.parametrize("groups", [1, 2, 4], ids="groups-{}".format)
    @pytest.mark.parametrize(
        ("stride", "padding", "dilation"),
        [(1, 0, 1), (2, 1, 1), ((1, 2), (2, 1), (2, 1))],
        ids=["plain", "strided", "uneven"],
    )
    def test_two_dimensions_are_unfold(
        self, stride: int, padding: int, dilation: int, groups: int
    ) -> None:
        x = normal(3, 4, 9, 8)
        layer = nn.Conv2d(4, 8, (3, 2), stride, padding, dilation, groups=groups)
        columns = functional.unfold(x, (3, 2), dilation, padding, stride)
        vectors = columns.transpose(1, 2).reshape(-1, 24)
        check(moments_of(layer, x)["weight"], *vectors.split(24 // groups, 1))

    def test_depthwise_is_one_block_per_channel(self) -> None:
        x = normal(3, 5, 6, 6)
        found = moments_of(nn.Conv2d(5, 10, 3, groups=5), x)["weight"]
        assert found.of_rows(10).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
        columns = functional.unfold(x, 3).transpose(1, 2).reshape(-1, 45)
        check(found, *columns.split(9, 1))

    def test_one_dimension(self) -> None:
        x = normal(2, 3, 17)
        windows = functional.pad(x, (2, 2)).unfold(2, 5, 2)[..., ::2]  # (2, 3, 9, 3)
        layer = nn.Conv1d(3, 4, 3, stride=2, padding=2, dilation=2)
        check(moments_of(layer, x)["weight"], windows.transpose(1, 2).reshape(-1, 9))

    def test_three_dimensions(self) -> None:
        x = normal(2, 2, 4, 5, 6)
        layer = nn.Conv3d(2, 3, (2, 3, 1), stride=(1, 2, 3))
        vectors = [
            x[n, :, i : i + 2, j : j + 3, k : k + 1].flatten()
            for n in range(2)
            for i in range(3)
            for j in range(0, 3, 2)
            for k in range(0, 6, 3)
        ]
        check(moments_of(layer, x)["weight"], torch.stack(vectors))

    def test_without_batch_dimension(self) -> None:
        x = normal(1, 4, 6, 6)
        vectors = functional.unfold(x, 3).transpose(1, 2).reshape(-1, 36)
        model = nn.Sequential(nn.Flatten(0, 1), nn.Conv2d(4, 2, 3))
        check(moments_of(model, x)["1.weight"], vectors)

    def test_channels_last(self) -> None:
        x = normal(2, 4, 6, 6).to(memory_format=torch.channels_last)
        layer = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        vectors = functional.unfold(x, 3).transpose(1, 2).reshape(-1, 36)
        check(moments_of(layer, x)["weight"], vectors)

    @pytest.mark.parametrize("limit", [1, 3000, 10_000], ids=["positions", "rows", "samples"])
    @pytest.mark.parametrize("shape", [(3, 4, 9, 8), (3, 4, 40)], ids=["2d", "1d"])
    def test_blocks_bound_memory(
        self, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], limit: int
    ) -> None:
        layer = nn.Conv2d(4, 8, 3, groups=2) if len(shape) == 4 else nn.Conv1d(4, 8, 3, groups=2)
        expected = moments_of(layer, normal(*shape))["weight"]
        monkeypatch.setattr("mixq.moments.inputs.BLOCK_BYTES", limit)
        found = moments_of(layer, normal(*shape))["weight"]
        assert expected.second is not None
        assert found.second is not None
        assert found.count == expected.count
        assert torch.allclose(found.second, expected.second, atol=1e-5)
        assert torch.allclose(found.mean, expected.mean, atol=1e-6)

    def test_blocks_bound_memory_of_products(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("mixq.moments.inputs.BLOCK_BYTES", 100)
        x = normal(50, 6)
        check(moments_of(nn.Linear(6, 4), x)["weight"], x)

    def test_tiles_of_wide_products(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("mixq.moments.sums.TILE", 4)
        x = normal(50, 11)
        check(moments_of(nn.Linear(11, 4), x)["weight"], x)
