"""Cross moments: one unit's inputs in the original model beside those in a changed one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mixq.calibration import Calibration
from mixq.errors import ModelError
from mixq.graph.build import build_graph
from mixq.graph.find import find_units
from mixq.graph.units import WeightUnit
from mixq.moments.collect import collect
from mixq.moments.cross import cross_moments

from .helpers import normal


def unit_of(model: nn.Module, name: str) -> WeightUnit:
    return {unit.name: unit for unit in find_units(model)}[name]


def near(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_second_layer_of_two() -> None:
    first = nn.Linear(6, 5)
    model = nn.Sequential(first, nn.ReLU(inplace=True), nn.Linear(5, 4))
    other = normal(5, 6, seed=7)
    batches = [normal(9, 6), normal(4, 6, seed=1)]
    inputs = torch.cat(batches)
    x = first(inputs).relu()
    y = functional.linear(inputs, other, first.bias).relu()
    calibration, replaced = Calibration.of(batches), {"0.weight": other}
    second, cross = cross_moments(model, calibration, unit_of(model, "2.weight"), replaced)
    assert near(second[0], y.t() @ y / 13)
    assert near(cross[0], x.t() @ y / 13)
    alone = collect(model, calibration, find_units(model), replaced=replaced)["2.weight"]
    assert alone.second is not None
    assert torch.equal(second, alone.second)


@torch.no_grad()
def test_best_weights_need_no_more() -> None:
    """The least-squares weights for the changed inputs, from the two moments alone."""
    first, last = nn.Linear(6, 5), nn.Linear(5, 4, bias=False)
    model = nn.Sequential(first, nn.Tanh(), last)
    inputs, other = normal(40, 6), normal(5, 6, seed=7)
    second, cross = cross_moments(
        model, Calibration.of(inputs), unit_of(model, "2.weight"), {"0.weight": other}
    )
    best = torch.linalg.solve(second[0], cross[0].t() @ last.weight.t()).t()
    y = functional.linear(inputs, other, first.bias).tanh()
    expected = torch.linalg.lstsq(y, model(inputs)).solution.t()
    assert torch.allclose(best, expected, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_grouped_convolution() -> None:
    first = nn.Conv2d(3, 4, 1)
    model = nn.Sequential(first, nn.Conv2d(4, 6, 3, groups=2))
    inputs, other = normal(2, 3, 7, 7), normal(4, 3, 1, 1, seed=7)
    second, cross = cross_moments(
        model, Calibration.of(inputs), unit_of(model, "1.weight"), {"0.weight": other}
    )

    def vectors(images: Tensor) -> list[Tensor]:
        return list(functional.unfold(images, 3).transpose(1, 2).reshape(-1, 36).split(18, 1))

    before = vectors(first(inputs))
    after = vectors(functional.conv2d(inputs, other, first.bias))
    for index, (x, y) in enumerate(zip(before, after, strict=True)):
        assert near(second[index], y.t() @ y / 50)
        assert near(cross[index], x.t() @ y / 50)


class Pair(nn.Module):
    def __init__(self, run: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Linear(6, 5)
        self.weight = nn.Parameter(normal(4, 5))
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.first(x), self.weight)


@torch.no_grad()
def test_rows_with_inputs_of_their_own() -> None:
    model = Pair(lambda h, w: torch.cat([h @ w[:2].t(), h.exp() @ w[2:].t()], 1))
    inputs, other = normal(9, 6), normal(5, 6, seed=7)
    second, cross = cross_moments(
        model, Calibration.of(inputs), unit_of(model, "weight"), {"first.weight": other}
    )
    x, y = model.first(inputs), functional.linear(inputs, other, model.first.bias)
    assert near(second, torch.stack([y.t() @ y, y.exp().t() @ y.exp()]) / 9)
    assert near(cross, torch.stack([x.t() @ y, x.exp().t() @ y.exp()]) / 9)


@torch.no_grad()
def test_masked_positions_do_not_count() -> None:
    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 5), nn.Linear(5, 4)

        def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
            result: Tensor = self.last(self.first(x))
            return result

    model, inputs, other = Text(), normal(2, 3, 6), normal(5, 6, seed=7)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    second, cross = cross_moments(
        model,
        Calibration.of({"x": inputs, "attention_mask": mask}),
        unit_of(model, "last.weight"),
        {"first.weight": other},
    )
    seen = inputs[mask > 0]
    x, y = model.first(seen), functional.linear(seen, other, model.first.bias)
    assert near(second[0], y.t() @ y / 3)
    assert near(cross[0], x.t() @ y / 3)


@torch.no_grad()
@pytest.mark.parametrize("convolves", [False, True], ids=["product", "convolution"])
def test_inputs_that_are_overwritten(convolves: bool) -> None:
    def run(h: Tensor, w: Tensor) -> Tensor:
        kernel = w[:, :, None]
        y = functional.conv1d(h[:, :, None], kernel)[:, :, 0] if convolves else h @ w.t()
        h.zero_()
        return y

    model = Pair(run)
    inputs, other = normal(9, 6), normal(5, 6, seed=7)
    second, cross = cross_moments(
        model, Calibration.of(inputs), unit_of(model, "weight"), {"first.weight": other}
    )
    x, y = model.first(inputs), functional.linear(inputs, other, model.first.bias)
    assert near(second[0], y.t() @ y / 9)
    assert near(cross[0], x.t() @ y / 9)


@torch.no_grad()
def test_both_runs_draw_the_same() -> None:
    model = Pair(lambda h, w: torch.rand_like(h) @ w.t())
    second, cross = cross_moments(
        model,
        Calibration.of([normal(9, 6), normal(4, 6)]),
        unit_of(model, "weight"),
        {"first.weight": normal(5, 6)},
    )
    assert near(second, cross)


def test_ends_early_in_both_runs() -> None:
    counted: list[int] = []
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4), nn.Tanh())
    inputs = normal(9, 6)
    units = build_graph(model, lambda: model(inputs)).units
    model[2].register_forward_hook(lambda *_: counted.append(1))
    cross_moments(model, Calibration.of(inputs), units["1.weight"], {"0.weight": normal(5, 6)})
    assert counted == []


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda h, w: h @ w.t()[:, :2] @ w[:2], "no inputs meet the columns"),
        (lambda h, w: h.sum() * w, "no inputs meet the columns"),
        (lambda h, w: h[h[:, 0] > 0] @ w.t(), "cannot be compared"),
        (lambda h, w: torch.cat([h, *[h] * int(h.sum() > 90)]) @ w.t(), "cannot be compared"),
        (lambda h, w: h @ w.t() + (h @ w.t() if h.sum() > 90 else 0), "in 2 places"),
    ],
    ids=["rows", "elementwise", "other-choice", "other-count", "other-calls"],
)
def test_refused(run: Callable[[Tensor, Tensor], Tensor], words: str) -> None:
    model = Pair(run)
    replaced = {"first.weight": torch.ones(5, 6), "first.bias": torch.full((5,), 9.0)}
    with pytest.raises(ModelError, match=words) as caught:
        cross_moments(model, Calibration.of(normal(9, 6)), unit_of(model, "weight"), replaced)
    assert "\n" not in str(caught.value)
    assert "weight" in str(caught.value)
