"""What has no moments: units that are met otherwise, wide ones, inputs that are not finite."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mixq.calibration import Calibration
from mixq.errors import CalibrationError, ModelError
from mixq.graph.find import find_units
from mixq.moments.collect import collect

from .helpers import Functional, moments_of, normal


class TestLeftOut:
    @pytest.mark.parametrize(
        "run",
        [
            lambda x, w: x @ w,
            lambda x, w: x[:, :3] @ w[:, :3].t() + x[:, 3:] @ w[:, 3:].t(),
            lambda x, w: functional.linear(x, w) @ w,
            lambda x, w: x @ (w * 2).t(),
            lambda x, w: x @ (w.t() @ w),
            lambda x, w: x @ (w @ w.t()),
            lambda x, w: x * w[0],
            lambda x, w: functional.embedding(x.long().abs() % 6, w),
            lambda x, w: functional.conv_transpose1d(x[:, :, None], w[:, :, None]),
        ],
        ids=[
            *("rows", "some-columns", "both", "computed", "rows-by-rows", "columns-by-columns"),
            *("elementwise", "lookup", "transposed-convolution"),
        ],
    )
    def test_unit(self, run: Callable[[Tensor, Tensor], Tensor]) -> None:
        assert moments_of(Functional(normal(6, 6), run), normal(5, 6)) == {}

    def test_transposed_convolution(self) -> None:
        assert moments_of(nn.ConvTranspose2d(4, 6, 3), normal(2, 4, 5, 5)) == {}

    def test_groups_of_some_rows(self) -> None:
        """Rows 0 and 1 meet channels 0 and 1 in one call, and all rows the four in another."""

        def run(x: Tensor, w: Tensor) -> Tensor:
            part = functional.conv1d(x[:, :2], w[:2], groups=2)
            return torch.cat([functional.conv1d(x, w, groups=4), part], 1)

        assert moments_of(Functional(normal(4, 1, 3), run), normal(2, 4, 9)) == {}

    def test_kernel_that_spans_rows(self) -> None:
        """A raw kernel of 16 taps is a matrix of taps: an output reads two of its rows."""
        model = Functional(normal(3, 2, 16), lambda x, w: functional.conv1d(x, w))
        assert moments_of(model, normal(2, 2, 20)) == {}

    def test_neighbour_in_one_storage_does_not_suffer(self) -> None:
        flat = normal(72)
        first = Functional(flat[:36].view(6, 6), lambda x, w: x @ w.t())
        second = Functional(flat[36:].view(6, 6), lambda x, w: x @ w)
        found = moments_of(nn.Sequential(first, second), normal(5, 6))
        assert {name: moments.count for name, moments in found.items()} == {"0.weight": 5}

    def test_some_units(self) -> None:
        model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
        units = find_units(model)[1:]
        assert list(collect(model, Calibration.of(normal(3, 6)), units)) == ["1.weight"]


class TestDiagonal:
    @pytest.mark.parametrize(
        ("layer", "shape"),
        [(nn.Linear(6, 4), (9, 6)), (nn.Conv2d(4, 6, 3, groups=2), (2, 4, 6, 6))],
        ids=["linear", "grouped"],
    )
    def test_is_that_of_the_second_moment(self, layer: nn.Module, shape: tuple[int, ...]) -> None:
        x = normal(*shape)
        full = moments_of(layer, x)["weight"]
        found = moments_of(layer, x, most_columns=5)["weight"]
        assert found.second is None
        assert found.diagonal.dtype == torch.float32
        assert torch.allclose(found.diagonal, full.diagonal, rtol=1e-6)
        assert torch.equal(found.mean, full.mean)
        assert torch.equal(found.counts, full.counts)

    def test_most_columns_is_met(self) -> None:
        assert (
            moments_of(nn.Linear(6, 4), normal(3, 6), most_columns=6)["weight"].second is not None
        )


class TestNonFinite:
    @pytest.mark.parametrize("most_columns", [8192, 1], ids=["full", "diagonal"])
    @pytest.mark.parametrize(
        ("scale", "words"),
        [
            (float("nan"), "NaN or infinite"),
            (float("inf"), "NaN or infinite"),
            (1e25, "too large"),
        ],
        ids=str,
    )
    def test_is_refused_with_the_unit(self, scale: float, words: str, most_columns: int) -> None:
        model = nn.Sequential(nn.Linear(6, 5), Scaled(scale), nn.Linear(5, 4))
        with pytest.raises(ModelError, match=rf"inputs that meet 2\.weight are {words}") as caught:
            moments_of(model, normal(3, 6), most_columns=most_columns)
        assert "\n" not in str(caught.value)

    def test_batch_that_does_not_fit(self) -> None:
        with pytest.raises(CalibrationError, match="does not take"):
            moments_of(nn.Linear(6, 4), normal(3, 5))


class Scaled(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale
