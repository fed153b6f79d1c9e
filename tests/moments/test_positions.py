"""Positions that an attention mask hides do not count, wherever they can be told."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mixq.calibration import Calibration
from mixq.graph.find import find_units
from mixq.moments.collect import collect
from mixq.moments.moments import Moments

SAMPLES, TOKENS = 3, 5
LENGTHS = torch.tensor([5, 2, 3])
MASK = torch.arange(TOKENS) < LENGTHS[:, None]
SEEN = int(LENGTHS.sum())
ALL = SAMPLES * TOKENS


def inputs(seed: int = 0) -> Tensor:
    return torch.randn(SAMPLES, TOKENS, 16, generator=torch.Generator().manual_seed(seed))


class Masked(nn.Module):
    """Runs on (samples, tokens, 16); the mask is only passed along."""

    def __init__(self, layer: nn.Module, run: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = layer
        self.run = run

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        return self.run(self.layer, x)


def moments_of(model: nn.Module, mask: Tensor, x: Tensor | None = None) -> dict[str, Moments]:
    batch = {"x": inputs() if x is None else x, "attention_mask": mask}
    return collect(model, Calibration.of(batch), find_units(model))


def check(found: Moments, vectors: Tensor) -> None:
    assert found.count == len(vectors)
    assert found.second is not None
    expected = vectors.t() @ vectors / len(vectors)
    assert torch.allclose(found.second[0], expected, rtol=1e-5, atol=1e-6)
    assert torch.allclose(found.mean[0], vectors.mean(0), rtol=1e-5, atol=1e-6)


def by_token(layer: nn.Module, x: Tensor) -> Tensor:
    result: Tensor = layer(x.transpose(0, 1))
    return result


WAYS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "samples-first": lambda layer, x: layer(x),
    "tokens-first": by_token,
    "joined": lambda layer, x: layer(x.view(-1, 16)),
    "joined-tokens-first": lambda layer, x: layer(x.transpose(0, 1).reshape(-1, 16)),
    "joined-and-changed": lambda layer, x: layer((x.view(-1, 16) * 1.0).neg().neg()),
    "joined-twice": lambda layer, x: layer(x.view(-1, 16).view(ALL, 4, 4).view(ALL, 16)),
    "bmm": lambda layer, x: torch.bmm(x, layer.weight.t().expand(SAMPLES, 16, 4)),  # type: ignore[operator]
}


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32], ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_hidden_positions_do_not_count(way: str, dtype: torch.dtype) -> None:
    model = Masked(nn.Linear(16, 4, bias=False), WAYS[way])
    check(moments_of(model, MASK.to(dtype))["layer.weight"], inputs()[MASK])


def test_hidden_positions_may_be_nan() -> None:
    def spoilt(layer: nn.Module, x: Tensor) -> Tensor:
        result: Tensor = layer(torch.where(MASK[:, :, None], x, torch.nan))
        return result

    model = Masked(nn.Linear(16, 4), spoilt)
    check(moments_of(model, MASK.long())["layer.weight"], inputs()[MASK])


def bmm_without_first(layer: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(layer, nn.Linear)
    return torch.bmm(x[:, 1:], layer.weight.t().expand(SAMPLES, 16, 4))


COUNTED_IN_FULL: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "first-token": lambda layer, x: layer(x[:, 0]),
    "other-count": lambda layer, x: layer(x[:, 1:]),
    "bmm-other-count": bmm_without_first,
    "heads": lambda layer, x: layer(x.view(SAMPLES, TOKENS, 2, 8).repeat(1, 1, 1, 2)),
    "repeated": lambda layer, x: layer(x[:, 0].repeat(TOKENS, 1)),
    "shuffled": lambda layer, x: layer(x.view(-1, 16)[torch.arange(ALL).flip(0)]),
}


@pytest.mark.parametrize("way", COUNTED_IN_FULL)
def test_everything_else_counts_in_full(way: str) -> None:
    model = Masked(nn.Linear(16, 4), COUNTED_IN_FULL[way])
    counts = {"first-token": SAMPLES, "heads": 2 * ALL}
    counts |= dict.fromkeys(("other-count", "bmm-other-count"), SAMPLES * (TOKENS - 1))
    assert moments_of(model, MASK.long())["layer.weight"].count == counts.get(way, ALL)


@pytest.mark.parametrize(
    "mask", [torch.ones(SAMPLES, TOKENS), MASK[:, None, :]], ids=["all-ones", "three-dimensional"]
)
def test_masks_that_hide_nothing_known(mask: Tensor) -> None:
    model = Masked(nn.Linear(16, 4), WAYS["samples-first"])
    assert moments_of(model, mask)["layer.weight"].count == ALL


def test_batch_whose_positions_are_all_hidden() -> None:
    model = Masked(nn.Linear(16, 4), WAYS["samples-first"])
    batches = [
        {"x": inputs(0), "attention_mask": MASK & False},
        {"x": inputs(1), "attention_mask": MASK},
    ]
    found = collect(model, Calibration.of(batches), find_units(model))["layer.weight"]
    check(found, inputs(1)[MASK])
    assert moments_of(model, MASK & False) == {}


def test_attention_inside() -> None:
    """nn.MultiheadAttention puts tokens first and joins them by itself."""

    def attend(layer: nn.Module, x: Tensor) -> Tensor:
        result: Tensor = layer(x, x, x, need_weights=False)[0]
        return result

    model = Masked(nn.MultiheadAttention(16, 4, batch_first=True), attend)
    found = moments_of(model, MASK.long())
    check(found["layer.in_proj_weight"], inputs()[MASK])
    assert found["layer.out_proj.weight"].count == SEEN


def test_a_chain_of_joined_layers() -> None:
    model = Masked(
        nn.Sequential(nn.Linear(16, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 4)),
        WAYS["joined-tokens-first"],
    )
    found = moments_of(model, MASK.long())
    with torch.no_grad():
        hidden = model.layer[:3](inputs()[MASK])  # type: ignore[index]
    check(found["layer.3.weight"], hidden)


@pytest.mark.parametrize("batch_first", [True, False], ids=["samples-first", "tokens-first"])
def test_recurrent(batch_first: bool) -> None:
    way = WAYS["samples-first" if batch_first else "tokens-first"]
    model = Masked(nn.LSTM(16, 8, batch_first=batch_first), lambda *args: way(*args)[0])
    found = moments_of(model, MASK.long())
    check(found["layer.weight_ih_l0"], inputs()[MASK])
    assert found["layer.weight_hh_l0"].count == SEEN


def test_convolution_over_tokens() -> None:
    model = Masked(nn.Conv1d(16, 4, 1), lambda layer, x: layer(x.transpose(1, 2)))
    check(moments_of(model, MASK.long())["layer.weight"], inputs()[MASK])


@pytest.mark.parametrize("limit", [1, 400, 10_000], ids=["positions", "rows", "samples"])
def test_convolution_in_blocks(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr("mixq.moments.inputs.BLOCK_BYTES", limit)
    model = Masked(
        nn.Conv1d(16, 4, 3, padding=1, groups=2), lambda layer, x: layer(x.transpose(1, 2))
    )
    found = moments_of(model, MASK.long())["layer.weight"]
    padded = nn.functional.pad(inputs().transpose(1, 2), (1, 1)).unfold(2, 3, 1)
    windows = padded.transpose(1, 2).reshape(SAMPLES, TOKENS, 48)[MASK]
    assert found.count == SEEN
    assert found.second is not None
    for second, x in zip(found.second, windows.split(24, 1), strict=True):
        assert torch.allclose(second, x.t() @ x / SEEN, rtol=1e-5, atol=1e-6)
