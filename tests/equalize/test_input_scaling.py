"""Input scaling: chosen by the error it leaves, and by nothing but the calibration."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mixq.calibration import Calibration
from mixq.equalize.equalization import Equalization
from mixq.equalize.find import find_equalization
from mixq.equalize.input_scaling import ALPHAS, scale_inputs
from mixq.equalize.links import find_links
from mixq.equalize.scaling import Scaling
from mixq.errors import UsageError

from .helpers import four_bits


def exact(weight: Tensor, rows: int, columns: int) -> Tensor:
    assert rows * columns == weight.numel()
    return weight


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.q, self.k = nn.Linear(16, 8), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Any:
        y = self.norm(x)
        return torch.cat([self.q(y), self.k(y)], -1)


def uneven() -> Block:
    """Two channels have inputs 30 times as large as the others."""
    torch.manual_seed(0)
    model = Block().eval()
    with torch.no_grad():
        model.norm.weight[[3, 8]] = 30
    return model


DATA = torch.randn(4, 5, 16, generator=torch.Generator().manual_seed(1))


def scalings(model: nn.Module, data: Tensor = DATA, trip: Any = four_bits) -> list[Scaling]:
    links, _ = find_links(model, lambda: model(data[:2]))
    found, _ = scale_inputs(model, Calibration.of(data), links, trip)
    return found


def test_it_is_the_best_alpha_of_the_grid() -> None:
    model = uneven()
    with torch.no_grad():
        inputs = model.norm(DATA).reshape(-1, 16).double()
    matrices = [layer.weight.detach().double() for layer in (model.q, model.k)]
    magnitude, square = inputs.abs().mean(0), inputs.square().mean(0)

    def factor(alpha: float) -> Any:
        s = magnitude**alpha
        return s / (s.max() * s.min()).sqrt()

    def error(alpha: float) -> float:
        s = factor(alpha)
        return sum(
            float(((four_bits(w * s, 8, 16) / s - w).square() * square).sum()) for w in matrices
        )

    best = min(ALPHAS, key=error)
    (found,) = scalings(model)
    assert best > 0
    torch.testing.assert_close(found.factor.double(), factor(best), rtol=1e-5, atol=0)


def test_all_that_read_the_norm_are_scaled_alike() -> None:
    (found,) = scalings(uneven())
    assert [part.name for part in found.producers] == ["norm.weight", "norm.bias"]
    assert [part.name for part in found.consumers] == ["q.weight", "k.weight"]
    assert float(found.factor[[3, 8]].min()) > float(found.factor.median())


def test_the_output_gets_nearer() -> None:
    model = uneven()
    found = find_equalization(model, DATA, input_scaling=True, round_trip=four_bits)

    def error(network: nn.Module) -> float:
        with torch.no_grad():
            before = network(DATA)
            for name, parameter in network.named_parameters():
                if parameter.dim() > 1:
                    assert name in ("q.weight", "k.weight")
                    parameter.copy_(four_bits(parameter, *parameter.shape))
            return float((network(DATA) - before).square().mean())

    assert error(found.apply(model)) < 0.75 * error(model)


def test_nothing_is_scaled_where_nothing_is_gained() -> None:
    model = uneven()
    found = find_equalization(model, DATA, input_scaling=True, round_trip=exact)
    assert found.scalings == ()
    assert "outputs of norm.weight not scaled: nothing to gain" in found.skipped


def test_a_silent_channel_is_scaled_by_no_infinity() -> None:
    model = uneven()
    with torch.no_grad():
        model.norm.weight[5] = model.norm.bias[5] = 0
    (found,) = scalings(model)
    assert bool(found.factor.isfinite().all())
    assert bool((found.factor > 0).all())


def test_every_batch_counts() -> None:
    model = uneven()
    links, _ = find_links(model, lambda: model(DATA[:2]))
    halves = Calibration.of(list(DATA.split(2)))
    (whole,) = scalings(model)
    (parts,), _ = scale_inputs(model, halves, links, four_bits)
    torch.testing.assert_close(parts.factor, whole.factor, rtol=1e-6, atol=0)
    (first,) = scalings(model, DATA[:1])
    assert not torch.allclose(first.factor, whole.factor, rtol=1e-3)


def test_channels_that_are_read_again_take_the_mean_of_their_readers() -> None:
    gains = torch.ones(20)
    gains[9] = 4

    class Shared(nn.Module):
        """Reads channels 0 to 3 thrice, 4 to 7 twice."""

        def __init__(self) -> None:
            super().__init__()
            self.v, self.o = nn.Linear(8, 8), nn.Linear(20, 4)

        def forward(self, x: Tensor) -> Any:
            return self.o(self.v(x).repeat(1, 3)[:, :20] * gains)

    torch.manual_seed(0)
    model = Shared()
    x = torch.randn(64, 8)
    with torch.no_grad():
        model.v.weight[:2] *= 30
        inputs = (model.v(x).repeat(1, 3)[:, :20] * gains).abs().double().mean(0)
    (found,) = scalings(model, x)
    ratio = float(found.factor[1] / found.factor[6])
    magnitude = float(inputs[[1, 9, 17]].mean() / inputs[[6, 14]].mean())
    assert min(abs(ratio / magnitude**alpha - 1) for alpha in ALPHAS[1:]) < 1e-5


def test_weights_that_no_module_is_called_with_are_left_alone() -> None:
    class Stacked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, x: Tensor) -> Any:
            return self.attention(x, x, x, need_weights=False)[0]

    model = Stacked().eval()
    found = find_equalization(
        model, DATA, cross_layer=False, input_scaling=True, round_trip=four_bits
    )
    assert found.scalings == ()
    line = "inputs of attention.out_proj.weight not scaled: no module is called with them"
    assert line in found.skipped


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d], ids=["1d", "2d"])
def test_convolutions_are_seen_as_their_matrix(kind: Any) -> None:
    torch.manual_seed(0)
    seen = []

    def trip(weight: Tensor, rows: int, columns: int) -> Tensor:
        seen.append((rows, columns))
        return four_bits(weight, rows, columns)

    axes = 1 if kind is nn.Conv1d else 2
    first = kind(3, 16, 3)
    model = nn.Sequential(first, nn.ReLU(), kind(16, 4, 3)).eval()
    with torch.no_grad():
        first.weight[2] *= 40
    x = torch.randn(2, 3, *itertools.repeat(9, axes))
    links, _ = find_links(model, lambda: model(x))
    found, _ = scale_inputs(model, Calibration.of(x), links, trip)
    assert set(seen) == {(4, 16 * 3**axes)}
    equalized = Equalization(scalings=tuple(found)).apply(model)
    torch.testing.assert_close(equalized(x), model(x), rtol=1e-4, atol=1e-5)


def test_it_needs_to_know_the_format() -> None:
    with pytest.raises(UsageError, match="without round_trip") as refused:
        find_equalization(uneven(), DATA, input_scaling=True)
    assert "\n" not in str(refused.value)
