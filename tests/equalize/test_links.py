"""Which channels may be scaled: any factors at all leave the function as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from mixq.equalize.links import Link, find_links
from mixq.graph.copying import copied
from mixq.graph.evaluating import evaluating

from .helpers import Run, chain, numbers, ready

Build = Callable[[], nn.Module]


def scaled_at_random(model: nn.Module, links: list[Link]) -> nn.Module:
    """A copy in which every channel that may be scaled is, by its own factor in e^-1..e."""
    random = torch.Generator().manual_seed(5)
    scaled = copied(model)
    parameters = dict(scaled.named_parameters())
    for link in links:
        factor = (2 * torch.rand(link.alive.shape, generator=random) - 1).exp()
        link.scaling("cross-layer", torch.where(link.alive, factor, 1.0)).scale(parameters)
    return scaled


def links_of(model: nn.Module, x: Tensor) -> dict[str, tuple[list[str | None], int]]:
    """Consumers and number of channels by producer, after a check that they are legal."""
    links, skipped = find_links(model, lambda: model(x))
    scaled = scaled_at_random(model, links)
    with evaluating(model), evaluating(scaled):
        pairs = list(zip(tree_leaves(model(x)), tree_leaves(scaled(x)), strict=True))
    assert all(isinstance(a, Tensor) and isinstance(b, Tensor) for a, b in pairs)
    for before, after in pairs:
        assert float((before - after).norm() / before.norm()) < 1e-12
    assert all("\n" not in line for line in skipped)
    return {
        str(link.producer.weight): (
            [site.weight for site in link.consumers],
            int(link.alive.sum()),
        )
        for link in links
    }


def between(*modules: nn.Module, inputs: int = 6, axes: int = 2) -> Build:
    """Two convolutions and what is between them."""
    kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[axes]

    def build() -> nn.Module:
        middle = {f"m{i}": module for i, module in enumerate(modules)}
        return chain(a=kind(4, 6, 3, padding=1), **middle, b=kind(inputs, 5, 1))

    return build


def function_between(function: Callable[[Tensor], Tensor], inputs: int = 6) -> Build:
    """Two convolutions and what is done between them."""
    return lambda: Run(
        lambda m, x: m.b(function(m.a(x))), a=nn.Conv2d(4, 6, 3), b=nn.Conv2d(inputs, 5, 1)
    )


IMAGE = (3, 4, 8, 6)
HOMOGENEOUS: dict[str, Build] = {
    "nothing": between(),
    "relu": between(nn.ReLU()),
    "relu-in-place": between(nn.ReLU(inplace=True)),
    "leaky": between(nn.LeakyReLU(0.1)),
    "prelu": between(nn.PReLU(6)),
    "dropout": between(nn.Dropout()),
    "max-pool": between(nn.MaxPool2d(3, 2, 1)),
    "average-pool": between(nn.AvgPool2d(2, padding=1)),
    "adaptive-pool": between(nn.AdaptiveAvgPool2d(3)),
    "global-pool": between(nn.AdaptiveAvgPool2d(1)),
    "upsampled": between(nn.Upsample(scale_factor=2)),
    "zero-padding": between(nn.ZeroPad2d(2)),
    "reflection": between(nn.ReflectionPad2d(2)),
    "shuffle": between(nn.ChannelShuffle(3)),
    "doubled": function_between(lambda y: y + y),
    "halved": function_between(lambda y: y / 2),
    "mean": function_between(lambda y: y.mean((2, 3), keepdim=True)),
    "through-memory": function_between(lambda y: y.new_zeros(y.shape).copy_(y)),
    "turned-twice": function_between(
        lambda y: y.permute(1, 3, 0, 2).contiguous().permute(2, 0, 3, 1)
    ),
    "masked": function_between(lambda y: y * torch.ones(6, 4, dtype=y.dtype).tril()),
}  # fmt: skip


@pytest.mark.parametrize("build", HOMOGENEOUS.values(), ids=HOMOGENEOUS)
def test_factors_pass_what_is_homogeneous(build: Build) -> None:
    assert links_of(ready(build()), numbers(*IMAGE)) == {"a.weight": (["b.weight"], 6)}


NOT_HOMOGENEOUS: dict[str, tuple[Build, str]] = {
    "relu6": (between(nn.ReLU6()), "read by hardtanh in m0"),
    "gelu": (between(nn.GELU()), "read by gelu in m0"),
    "sigmoid": (between(nn.Sigmoid()), "read by sigmoid in m0"),
    "softmax": (between(nn.Softmax(1)), "read by _softmax in m0"),
    "square": (function_between(lambda y: y * y), "read by mul"),
    "quotient": (function_between(lambda y: y / y), "read by div"),
    "one-more": (function_between(lambda y: y + 1), "read by add"),
    "norm": (function_between(lambda y: y / y.norm()), "read by linalg_vector_norm"),
    "rounded": (function_between(lambda y: y.to(torch.int64).double()), "read by _to_copy"),
    "narrowed": (function_between(lambda y: y.to(torch.bfloat16).double()), "read by _to_copy"),
    "padded-with-ones": (between(nn.ConstantPad2d(1, 1.0)), "read by convolution in b"),
    "complex": (
        function_between(
            lambda y: torch.view_as_real(torch.view_as_complex(y.view(3, 6, 6, 2, 2)) * 1j).view(
                y.shape
            )
        ),
        "a view as another type",
    ),
    "mean-of-channels": (function_between(lambda y: y.mean(1, keepdim=True), 1), "read by mean"),
    "largest-channel": (function_between(lambda y: y.amax(1, keepdim=True), 1), "read by amax"),
    "sorted": (function_between(lambda y: y.sort(1)[0]), "read by sort"),
    "rolled-by-sample": (
        function_between(lambda y: torch.stack([y[0], y[1].roll(1, 0), y[2]])),
        "read by convolution in b",
    ),
    "overwritten": (function_between(lambda y: y.add_(1)), "read by add_"),
    "batch-norm": (between(nn.BatchNorm2d(6)), "read by _native_batch_norm"),
    "group-norm": (between(nn.GroupNorm(2, 6)), "read by native_group_norm in m0"),
}  # fmt: skip


@pytest.mark.parametrize(("build", "reason"), NOT_HOMOGENEOUS.values(), ids=NOT_HOMOGENEOUS)
def test_factors_stop_at_what_is_not(build: Build, reason: str) -> None:
    model, x = ready(build()), numbers(*IMAGE[:2], 8, 6)
    assert "a.weight" not in links_of(model, x)
    _, skipped = find_links(model, lambda: model(x))
    assert any(f"outputs of a.weight not scaled: {reason}" in line for line in skipped)


class Gate(nn.Module):
    """down(act(gate(x)) * up(x)), as in Llama."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(4)
        self.gate, self.up = nn.Linear(4, 6, bias=False), nn.Linear(4, 6, bias=False)
        self.down, self.act = nn.Linear(6, 4, bias=False), act

    def forward(self, x: Tensor) -> Any:
        y = self.norm(x)
        return x + self.down(self.act(self.gate(y)) * self.up(y))


class Attention(nn.Module):
    """Query heads share `heads // groups` key and value heads."""

    def __init__(self, heads: int = 4, groups: int = 4, *, by_hand: bool = False) -> None:
        super().__init__()
        self.heads, self.groups, self.by_hand = heads, groups, by_hand
        self.norm = nn.LayerNorm(8)
        self.q = nn.Linear(8, heads * 2)
        self.k, self.v = nn.Linear(8, groups * 2), nn.Linear(8, groups * 2)
        self.o = nn.Linear(heads * 2, 8)

    def forward(self, x: Tensor) -> Any:
        y = self.norm(x)
        batch, length = x.shape[:2]
        q, k, v = (
            layer(y).view(batch, length, -1, 2).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        k, v = (t.repeat_interleave(self.heads // self.groups, dim=1) for t in (k, v))
        if self.by_hand:
            y = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        else:
            y = functional.scaled_dot_product_attention(q, k, v)
        return x + self.o(y.transpose(1, 2).reshape(batch, length, -1))


def tied() -> nn.Module:
    model = chain(
        a=nn.Linear(8, 8), r=nn.ReLU(), b=nn.Linear(8, 8), s=nn.ReLU(), c=nn.Linear(8, 8)
    )
    model.get_submodule("c").weight = model.get_parameter("a.weight")
    return model


def parametrized() -> nn.Module:
    model = chain(a=nn.Linear(8, 8), r=nn.ReLU(), b=nn.Linear(8, 8))
    torch.nn.utils.parametrizations.weight_norm(model.get_submodule("b"))
    return model


def hooked() -> nn.Module:
    model = chain(a=nn.Linear(8, 8), r=nn.ReLU(), b=nn.Linear(8, 8))
    model.get_submodule("b").register_forward_pre_hook(lambda _m, _a: None)
    return model


def sliced(y: Tensor) -> Tensor:
    y[:, 1:3] += 1
    return y


TOKENS = (2, 5, 8)
QKV = ["q.weight", "k.weight", "v.weight"]
Expected = dict[str, tuple[list[str], int]]
SHAPES: dict[str, tuple[Build, tuple[int, ...], Expected]] = {
    "1d": (between(nn.ReLU(), axes=1), (3, 4, 9), {"a.weight": (["b.weight"], 6)}),
    "3d": (between(nn.ReLU(), axes=3), (2, 4, 3, 4, 5), {"a.weight": (["b.weight"], 6)}),
    "depthwise": (
        lambda: chain(
            a=nn.Conv2d(4, 6, 1), r=nn.ReLU(), d=nn.Conv2d(6, 12, 3, groups=6), s=nn.ReLU(),
            b=nn.Conv2d(12, 3, 1),
        ),
        IMAGE,
        {"a.weight": (["d.weight"], 6), "d.weight": (["b.weight"], 12)},
    ),
    "grouped": (
        lambda: chain(a=nn.Conv2d(4, 6, 3, groups=2), r=nn.ReLU(), b=nn.Conv2d(6, 9, 3, groups=3)),
        IMAGE,
        {"a.weight": (["b.weight"], 6)},
    ),
    "transposed": (
        lambda: chain(
            a=nn.ConvTranspose2d(4, 6, 3), r=nn.ReLU(), b=nn.ConvTranspose2d(6, 5, 3, 2, 1)
        ),
        IMAGE,
        {"a.weight": (["b.weight"], 6)},
    ),
    "transposed-grouped": (
        lambda: chain(
            a=nn.ConvTranspose2d(4, 6, 3, groups=2), r=nn.ReLU(),
            b=nn.ConvTranspose2d(6, 6, 3, groups=3, bias=False),
        ),
        IMAGE,
        {"a.weight": (["b.weight"], 6)},
    ),
    "channels-last": (
        lambda: Run(
            lambda m, x: m.b(m.a(x.to(memory_format=torch.channels_last)).relu()),
            a=nn.Conv2d(4, 6, 3), b=nn.Conv2d(6, 3, 3),
        ),
        IMAGE,
        {"a.weight": (["b.weight"], 6)},
    ),
    "flattened": (
        lambda: chain(a=nn.Conv2d(4, 6, 3), r=nn.ReLU(), f=nn.Flatten(), b=nn.Linear(144, 3)),
        IMAGE,
        {"a.weight": (["b.weight"], 6)},
    ),
    "pixel-shuffle": (
        lambda: chain(a=nn.Conv2d(4, 8, 3), s=nn.PixelShuffle(2), b=nn.Conv2d(2, 3, 1)),
        IMAGE,
        {},
    ),
    "square-linear": (
        lambda: chain(a=nn.Linear(8, 8), r=nn.ReLU(), b=nn.Linear(8, 8)),
        TOKENS,
        {"a.weight": (["b.weight"], 8)},
    ),
    "turned-linear": (  # torch adds the bias behind the product here
        lambda: Run(
            lambda m, x: m.b(m.a(x.transpose(1, 2)).relu()), a=nn.Linear(5, 6), b=nn.Linear(6, 3)
        ),
        TOKENS,
        {"a.weight": (["b.weight"], 6)},
    ),
    "two-readers": (
        lambda: Run(
            lambda m, x: m.b(y := m.a(x).relu()) + m.c(y),
            a=nn.Linear(8, 6), b=nn.Linear(6, 3), c=nn.Linear(6, 3),
        ),
        TOKENS,
        {"a.weight": (["b.weight", "c.weight"], 6)},
    ),
    "joined": (
        lambda: Run(
            lambda m, x: m.c(torch.cat([m.a(x).relu(), x, m.b(x)], -1)),
            a=nn.Linear(8, 6), b=nn.Linear(8, 2), c=nn.Linear(16, 3),
        ),
        TOKENS,
        {"a.weight": (["c.weight"], 6), "b.weight": (["c.weight"], 2)},
    ),
    "half-used": (
        lambda: Run(
            lambda m, x: m.b((y := m.a(x))[..., :3]) * y[..., 3:].sigmoid(),
            a=nn.Linear(8, 6), b=nn.Linear(3, 3),
        ),
        TOKENS,
        {"a.weight": (["b.weight"], 3)},
    ),
    "written-in-part": (
        lambda: Run(
            lambda m, x: m.b(sliced(m.a(x))), a=nn.Conv2d(4, 6, 3), b=nn.Conv2d(6, 3, 1)
        ),
        IMAGE,
        {"a.weight": (["b.weight"], 4)},
    ),
    "residual": (
        lambda: Run(
            lambda m, x: m.c((y := m.a(x).relu()) + m.b(y)),
            a=nn.Linear(8, 6), b=nn.Linear(6, 6), c=nn.Linear(6, 3),
        ),
        TOKENS,
        {},
    ),
    "residual-block": (
        lambda: Run(
            lambda m, x: m.c((y := m.p(x)) + m.b(m.a(y).relu())),
            p=nn.Linear(8, 6), a=nn.Linear(6, 7), b=nn.Linear(7, 6), c=nn.Linear(6, 3),
        ),
        TOKENS,
        {"a.weight": (["b.weight"], 7)},
    ),
    "output-too": (
        lambda: Run(
            lambda m, x: (m.b(y := m.a(x)), y.mean()), a=nn.Linear(8, 6), b=nn.Linear(6, 3)
        ),
        TOKENS,
        {},
    ),
    "hidden-output": (
        lambda: Run(
            lambda m, x: (m.b(m.__dict__.setdefault("kept", m.a(x))),),
            a=nn.Linear(8, 6), b=nn.Linear(6, 3),
        ),
        TOKENS,
        {},
    ),
    "used-twice": (
        lambda: Run(lambda m, x: m.a(m.a(x).relu()), a=nn.Linear(8, 8)),
        TOKENS,
        {},
    ),
    "reader-used-twice": (
        lambda: Run(
            lambda m, x: m.b(m.a(x)) + m.b(x), a=nn.Linear(8, 8), b=nn.Linear(8, 8)
        ),
        TOKENS,
        {},
    ),
    "tied": (tied, TOKENS, {}),
    "parametrized": (parametrized, TOKENS, {}),
    "hooked": (hooked, TOKENS, {}),
    "gated": (
        lambda: Gate(nn.SiLU()),
        (2, 5, 4),
        {"norm.weight": (["gate.weight", "up.weight"], 4), "up.weight": (["down.weight"], 6)},
    ),
    "gated-by-relu": (
        lambda: Gate(nn.ReLU()),
        (2, 5, 4),
        {"norm.weight": (["gate.weight", "up.weight"], 4), "up.weight": (["down.weight"], 6)},
    ),
    "attention": (
        Attention, TOKENS, {"norm.weight": (QKV, 8), "v.weight": (["o.weight"], 8)}
    ),
    "attention-by-hand": (
        lambda: Attention(by_hand=True),
        TOKENS,
        {"norm.weight": (QKV, 8), "v.weight": (["o.weight"], 8)},
    ),
    "grouped-query": (
        lambda: Attention(4, 2),
        TOKENS,
        {"norm.weight": (QKV, 8), "v.weight": (["o.weight"], 4)},
    ),
    "grouped-query-by-torch": (
        lambda: Run(
            lambda m, x: m.o(
                functional.scaled_dot_product_attention(
                    x.view(2, 5, 4, 2).transpose(1, 2),
                    x.view(2, 5, 4, 2)[:, :, :2].transpose(1, 2),
                    m.v(x).view(2, 5, 2, 2).transpose(1, 2),
                    enable_gqa=True,
                ).transpose(1, 2).reshape(2, 5, 8)
            ),
            v=nn.Linear(8, 4), o=nn.Linear(8, 8),
        ),
        TOKENS,
        {"v.weight": (["o.weight"], 4)},
    ),
    "multi-query": (
        lambda: Attention(4, 1, by_hand=True),
        TOKENS,
        {"norm.weight": (QKV, 8), "v.weight": (["o.weight"], 2)},
    ),
    "value-is-query": (
        lambda: Run(
            lambda m, x: m.b(functional.scaled_dot_product_attention(*[m.a(x)] * 3)),
            a=nn.Linear(8, 8), b=nn.Linear(8, 3),
        ),
        (2, 3, 5, 8),
        {},
    ),
    "stacked-attention": (
        lambda: Run(
            lambda m, x: m.a(y := m.n(x), y, y, need_weights=False)[0],
            n=nn.LayerNorm(8), a=nn.MultiheadAttention(8, 2, batch_first=True),
        ),
        TOKENS,
        {"n.weight": (["a.in_proj_weight"], 8), "a.in_proj_weight": (["a.out_proj.weight"], 8)},
    ),
    "post-norm": (
        lambda: Run(
            lambda m, x: m.m((y := m.n(x)) + m.a(y)),
            n=nn.LayerNorm(8), a=nn.Linear(8, 8), m=nn.LayerNorm(8),
        ),
        TOKENS,
        {},
    ),
    "group-norm": (
        lambda: chain(n=nn.GroupNorm(2, 4), r=nn.ReLU(), a=nn.Conv2d(4, 3, 3, padding=1)),
        IMAGE,
        {"n.weight": (["a.weight"], 4)},
    ),
    "batch-norm": (
        lambda: chain(n=nn.BatchNorm2d(4), r=nn.ReLU(), a=nn.Conv2d(4, 3, 3, padding=1)),
        IMAGE,
        {"n.weight": (["a.weight"], 4)},
    ),
    "norm-of-scaled-sums": (  # what was given up before the norm does not matter behind it
        lambda: chain(p=nn.Linear(8, 8), n=nn.RMSNorm(8), a=nn.Linear(8, 3)),
        TOKENS,
        {"n.weight": (["a.weight"], 8)},
    ),
    "norm-of-two-axes": (
        lambda: chain(n=nn.LayerNorm([8, 6]), a=nn.Conv2d(4, 3, 3)), IMAGE, {}
    ),
    "layer-scale": (
        lambda: Run(lambda m, x: x + m.n.weight * m.a(x), a=nn.Linear(8, 8), n=nn.LayerNorm(8)),
        TOKENS,
        {},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("build", "shape", "expected"), SHAPES.values(), ids=SHAPES)
def test_links(build: Build, shape: tuple[int, ...], expected: Expected) -> None:
    assert links_of(ready(build()), numbers(*shape)) == expected


def test_inference_mode_hides_nothing() -> None:
    model = ready(chain(a=nn.Linear(8, 6), r=nn.ReLU(), b=nn.Linear(6, 3)))

    def run() -> None:
        with torch.inference_mode():
            model(numbers(*TOKENS))

    links, _ = find_links(model, run)
    assert [link.producer.weight for link in links] == ["a.weight"]


def test_every_weight_is_linked_or_skipped_with_a_reason() -> None:
    model = ready(Attention())
    links, skipped = find_links(model, lambda: model(numbers(*TOKENS)))
    weights = {name for name, _ in model.named_parameters() if name.endswith("weight")}
    named = {str(link.producer.weight) for link in links}
    assert named | {line.split()[2] for line in skipped} == weights
