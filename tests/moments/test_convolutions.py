"""Moments of what convolutions read, against the windows of functional.unfold."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from .helpers import check, moments_of, normal


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
