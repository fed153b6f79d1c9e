"""Cross-layer equalization: the paper's formula, and what must not come of it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from mixq.equalize.cross_layer import MOST, equalize_ranges
from mixq.equalize.equalization import Equalization
from mixq.equalize.find import find_equalization
from mixq.equalize.links import Link, find_links


def pair(made: Sequence[float], read: Sequence[float]) -> nn.Module:
    """Two linear layers whose channels have weights of these magnitudes."""
    maker, reader = nn.Linear(2, len(made)), nn.Linear(len(read), 3)
    with torch.no_grad():
        maker.weight.copy_(torch.tensor(made)[:, None] * torch.tensor([[1.0, -0.5]]))
        reader.weight.copy_(torch.tensor(read)[None] * torch.tensor([[0.2], [-1.0], [0.7]]))
    return nn.Sequential(maker, nn.ReLU(), reader)


def links_of(model: nn.Module, x: Tensor) -> list[Link]:
    links, _ = find_links(model, lambda: model(x))
    return links


def factors(model: nn.Module, x: Tensor) -> Tensor:
    (scaling,) = equalize_ranges(model, links_of(model, x))
    assert scaling.factor.dtype == torch.float32
    return scaling.factor


def test_factors_are_those_of_the_paper() -> None:
    made, read = [4.0, 1.0, 0.25, 9.0], [1.0, 1.0, 4.0, 0.01]
    found = factors(pair(made, read), torch.ones(2, 2))
    expected = [(r1 * r2) ** 0.5 / r2 for r1, r2 in zip(made, read, strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-6, atol=0)


def test_ranges_of_a_chain_become_equal() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.ReLU(), nn.Conv2d(6, 4, 1),
        nn.ReLU(), nn.Flatten(), nn.Linear(64, 5),
    )  # fmt: skip
    with torch.no_grad():
        for name in ("0.weight", "2.weight", "4.weight"):
            weight = model.get_parameter(name)
            weight.mul_(torch.rand(len(weight), 1, 1, 1).exp2() ** 6)
    x = torch.randn(2, 3, 8, 8)
    links = links_of(model, x)
    equalized = Equalization(scalings=tuple(equalize_ranges(model, links))).apply(model)
    assert len(links) == 3
    for link in links:
        producing, consuming = link.producing()[0], link.consuming()[0]
        count = link.producer.channels
        made = producing.largest(equalized.get_parameter(producing.name).detach(), count)
        read = consuming.largest(equalized.get_parameter(consuming.name).detach(), count)
        # Sweeps end when the logarithm of no factor moves by more than 1%; s^2 is the ratio.
        assert float((made / read).log().abs().max()) < 0.03


@pytest.mark.parametrize(
    ("made", "read"),
    [((0.0, 4.0), (1.0, 1.0)), ((1.0, 4.0), (0.0, 1.0)), ((0.0, 4.0), (0.0, 1.0))],
    ids=["nothing-makes-it", "nothing-reads-it", "neither"],
)
def test_a_dead_channel_keeps_its_weights(
    made: tuple[float, ...], read: tuple[float, ...]
) -> None:
    assert factors(pair(made, read), torch.ones(2, 2)).tolist() == [1.0, 2.0]


@pytest.mark.parametrize("made", [1e-30, 1e30], ids=str)
def test_a_channel_that_is_far_off_keeps_finite_weights(made: float) -> None:
    model = pair((made, 4.0), (1.0, 1.0))
    found = factors(model, torch.ones(2, 2))
    assert found[0] == pytest.approx(MOST if made > 1 else 1 / MOST)
    assert found[1] == pytest.approx(2.0)


def test_what_does_not_come_from_a_product_is_left_to_input_scaling() -> None:
    model = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 3))
    links = links_of(model, torch.randn(2, 4))
    assert [link.producer.weight for link in links] == ["0.weight"]
    assert equalize_ranges(model, links) == []


def test_channels_that_may_not_be_scaled_keep_the_factor_one() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.a(x)
            return self.b(y.relu()), y[:, 3:].sigmoid()

    found = factors(Half(), torch.randn(2, 4))
    assert found[3:].tolist() == [1.0, 1.0, 1.0]
    assert not bool((found[:3] == 1).any())


def test_it_evens_out_what_a_folded_norm_left_uneven() -> None:
    """The case of the paper: one step per tensor, ranges of channels far apart after folding."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 8, 1),
    ).eval()  # fmt: skip
    for index in (1, 4):
        norm = model[index]
        assert isinstance(norm, nn.BatchNorm2d)
        norm.weight.data = torch.rand(16).mul(6).sub(3).exp()
    x = torch.randn(4, 3, 12, 12)

    def error(network: nn.Module) -> float:
        """Relative error of the output with all weights at 8 bits and one step per tensor."""
        exact = network(x)
        for parameter in network.parameters():
            if parameter.dim() > 1:
                step = parameter.abs().max() / 127
                parameter.data = (parameter / step).round() * step
        return float((network(x) - exact).norm() / exact.norm())

    with torch.no_grad():
        folded = find_equalization(model, x, cross_layer=False).apply(model)
        balanced = find_equalization(model, x).apply(model)
        assert error(balanced) < 0.5 * error(folded)
