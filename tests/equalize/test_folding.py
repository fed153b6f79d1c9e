"""Which batch norms are folded, and that nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from mixq.equalize.equalization import Equalization
from mixq.equalize.find import find_equalization
from mixq.graph.evaluating import evaluating
from mixq.graph.state import stored_tensors

from .helpers import Run, chain, numbers, ready


def outputs(model: nn.Module, x: object) -> list[Tensor]:
    with evaluating(model):
        return [leaf for leaf in tree_leaves(model(x)) if isinstance(leaf, Tensor)]


def largest_change(model: nn.Module, other: nn.Module, x: Tensor) -> float:
    pairs = zip(outputs(model, x), outputs(other, x), strict=True)
    return max(float((a - b).norm() / a.norm()) for a, b in pairs)


def folds(model: nn.Module, x: Tensor) -> Equalization:
    found = find_equalization(model, x, cross_layer=False)
    assert largest_change(model, found.apply(model), x) < 1e-12
    return found


IMAGE = (3, 4, 7, 6)
BEFORE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "1d": (lambda: chain(a=nn.Conv1d(4, 5, 3), n=nn.BatchNorm1d(5)), (3, 4, 9)),
    "2d": (lambda: chain(a=nn.Conv2d(4, 5, 3, bias=False), n=nn.BatchNorm2d(5)), IMAGE),
    "3d": (lambda: chain(a=nn.Conv3d(4, 5, 2, padding=1), n=nn.BatchNorm3d(5)), (2, 4, 3, 4, 5)),
    "strided": (lambda: chain(a=nn.Conv2d(4, 5, 3, 2, 1, 2), n=nn.BatchNorm2d(5)), IMAGE),
    "reflected": (
        lambda: chain(
            a=nn.Conv2d(4, 5, 3, padding=1, padding_mode="reflect"), n=nn.BatchNorm2d(5)
        ),
        IMAGE,
    ),
    "depthwise": (lambda: chain(a=nn.Conv2d(4, 8, 3, groups=4), n=nn.BatchNorm2d(8)), IMAGE),
    "grouped": (
        lambda: chain(a=nn.Conv2d(4, 6, 3, groups=2, bias=False), n=nn.BatchNorm2d(6)),
        IMAGE,
    ),
    "transposed": (lambda: chain(a=nn.ConvTranspose2d(4, 5, 3), n=nn.BatchNorm2d(5)), IMAGE),
    "transposed-grouped": (
        lambda: chain(a=nn.ConvTranspose2d(4, 6, 3, 2, groups=2, bias=False), n=nn.BatchNorm2d(6)),
        IMAGE,
    ),
    "linear": (lambda: chain(a=nn.Linear(4, 5), n=nn.BatchNorm1d(5)), (6, 4)),
    "linear-no-bias": (lambda: chain(a=nn.Linear(4, 5, bias=False), n=nn.BatchNorm1d(5)), (6, 4)),
    "no-affine": (lambda: chain(a=nn.Linear(4, 5), n=nn.BatchNorm1d(5, affine=False)), (6, 4)),
    "tokens": (
        lambda: Run(
            lambda m, x: m.n(m.a(x).transpose(1, 2)), a=nn.Linear(4, 5), n=nn.BatchNorm1d(5)
        ),
        (2, 7, 4),
    ),
    "turned-tokens": (  # torch adds the bias behind the product here
        lambda: Run(
            lambda m, x: m.n(m.a(x.transpose(1, 2)).transpose(1, 2)),
            a=nn.Linear(4, 5),
            n=nn.BatchNorm1d(5),
        ),
        (2, 4, 7),
    ),
    "one-pixel": (lambda: chain(a=nn.Conv2d(4, 5, (7, 6)), n=nn.BatchNorm2d(5)), IMAGE),
    "in-place-relu": (
        lambda: chain(a=nn.Conv2d(4, 5, 3), n=nn.BatchNorm2d(5), r=nn.ReLU(inplace=True)),
        IMAGE,
    ),
    "before-a-branch": (
        lambda: Run(
            lambda m, x: (y := m.n(m.a(x))) + y.sin(), a=nn.Linear(4, 5), n=nn.BatchNorm1d(5)
        ),
        (6, 4),
    ),
    "root": (lambda: nn.Sequential(nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5)), IMAGE),
}  # fmt: skip


@pytest.mark.parametrize(("build", "shape"), BEFORE.values(), ids=BEFORE)
def test_folds_into_the_layer_before(
    build: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    model = ready(build())
    found = folds(model, numbers(*shape))
    assert [fold.side for fold in found.folds] == ["before"]
    assert found.skipped == ()
    folded = found.apply(model)
    assert not any("running" in name for name in folded.state_dict())
    assert "bias" in str(list(folded.state_dict()))


AFTER: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolution": (lambda: chain(n=nn.BatchNorm2d(4), a=nn.Conv2d(4, 5, 3, 2)), IMAGE),
    "no-bias": (lambda: chain(n=nn.BatchNorm2d(4), a=nn.Conv2d(4, 5, 1, bias=False)), IMAGE),
    "grouped": (lambda: chain(n=nn.BatchNorm2d(4), a=nn.Conv2d(4, 6, 3, groups=2)), IMAGE),
    "depthwise": (lambda: chain(n=nn.BatchNorm2d(4), a=nn.Conv2d(4, 8, 3, groups=4)), IMAGE),
    "linear": (lambda: chain(n=nn.BatchNorm1d(4), a=nn.Linear(4, 5, bias=False)), (6, 4)),
    "flattened": (
        lambda: chain(n=nn.BatchNorm2d(4), f=nn.Flatten(), a=nn.Linear(4 * 42, 5)),
        IMAGE,
    ),
    "joined": (
        lambda: Run(
            lambda m, x: m.a(torch.cat([m.n(x), x], 1)), n=nn.BatchNorm2d(4), a=nn.Conv2d(8, 3, 2)
        ),
        IMAGE,
    ),
    "reflected": (
        lambda: chain(
            n=nn.BatchNorm2d(4), a=nn.Conv2d(4, 5, 3, padding=1, padding_mode="reflect")
        ),
        IMAGE,
    ),
}


@pytest.mark.parametrize(("build", "shape"), AFTER.values(), ids=AFTER)
def test_folds_into_the_layer_after(
    build: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    model = ready(build())
    found = folds(model, numbers(*shape))
    assert [fold.side for fold in found.folds] == ["after"]
    assert found.skipped == ()


def test_a_layer_takes_over_the_norms_on_both_sides() -> None:
    model = ready(
        chain(n=nn.BatchNorm2d(4), a=nn.Conv2d(4, 4, 1, bias=False), m=nn.BatchNorm2d(4))
    )
    found = folds(model, numbers(*IMAGE))
    assert [(fold.norm, fold.side) for fold in found.folds] == [("n", "after"), ("m", "before")]


class Half(nn.Conv2d):
    """A convolution whose forward has no use for a bias."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.conv2d(input, self.weight)


class Padded(nn.Conv2d):
    """Like EfficientNet's convolutions, which pad by themselves."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.conv2d(
            functional.pad(input, (0, 1, 0, 1)), self.weight, self.bias, self.stride
        )


class Activated(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).relu()


def tied() -> nn.Module:
    model = Run(
        lambda m, x: m.n(m.a(x)) + m.b(x),
        a=nn.Conv2d(4, 5, 3),
        b=nn.Conv2d(4, 5, 3),
        n=nn.BatchNorm2d(5),
    )
    b = model.get_submodule("b")
    b.weight = model.get_parameter("a.weight")
    return model


def hooked(name: str) -> nn.Module:
    model = chain(a=nn.Conv2d(4, 5, 3), n=nn.BatchNorm2d(5))
    model.get_submodule(name).register_forward_hook(lambda _m, _a, _y: None)
    return model


def parametrized() -> nn.Module:
    model = chain(a=nn.Conv2d(4, 5, 3), n=nn.BatchNorm2d(5))
    torch.nn.utils.parametrizations.weight_norm(model.get_submodule("a"))
    return model


def stashing() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Any:
        m.seen = m.a(x)
        return m.n(m.seen)

    return Run(forward, a=nn.Conv2d(4, 5, 3), n=nn.BatchNorm2d(5))


def frozen_view() -> nn.Module:
    return Run(
        lambda m, x: m.n(y := m.a(x)) + y.data.abs(), a=nn.Conv2d(4, 5, 3), n=nn.BatchNorm2d(5)
    )


def by_function() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Any:
        n = m.n
        return functional.batch_norm(m.a(x), n.running_mean, n.running_var, n.weight, n.bias)

    return Run(forward, a=nn.Conv2d(4, 5, 3), n=nn.BatchNorm2d(5))


LEFT_ALONE: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "branch": (
        lambda: Run(lambda m, x: m.n(y := m.a(x)) + y, a=nn.Conv2d(4, 5, 3), n=nn.BatchNorm2d(5)),
        "batch norm in n not folded: before it, a.weight: read by add",
    ),
    "detached-branch": (frozen_view, "a.weight: read by abs"),
    "output": (
        lambda: Run(lambda m, x: (m.n(y := m.a(x)), y), a=nn.Conv2d(4, 5, 3), n=nn.BatchNorm2d(5)),
        "a.weight: leaves the model",
    ),
    "stashed": (stashing, "a.weight: leaves the model"),
    "two-norms": (
        lambda: Run(
            lambda m, x: m.n(y := m.a(x)) + m.m(y),
            a=nn.Conv2d(4, 5, 3),
            n=nn.BatchNorm2d(5),
            m=nn.BatchNorm2d(5),
        ),
        "a.weight: another batch norm reads it too",
    ),
    "activation-between": (
        lambda: chain(a=nn.Conv2d(4, 5, 3), r=nn.ReLU(), n=nn.BatchNorm2d(5)),
        "no convolution or linear layer makes its channels",
    ),
    "padding-between": (
        lambda: chain(a=nn.Conv2d(4, 5, 3), p=nn.ZeroPad2d(1), n=nn.BatchNorm2d(5)),
        "no convolution or linear layer makes its channels",
    ),
    "shuffle-between": (
        lambda: chain(a=nn.Conv2d(4, 4, 3), s=nn.ChannelShuffle(2), n=nn.BatchNorm2d(4)),
        "no convolution or linear layer makes its channels",
    ),
    "half-of-the-channels": (
        lambda: Run(lambda m, x: m.n(m.a(x)[:, :2]), a=nn.Conv2d(4, 4, 3), n=nn.BatchNorm2d(2)),
        "a.weight: other channels follow",
    ),
    "convolution-twice": (
        lambda: Run(
            lambda m, x: m.n(m.a(x)) + m.a(x.abs()), a=nn.Conv2d(4, 5, 3), n=nn.BatchNorm2d(5)
        ),
        "a.weight is used 2 times",
    ),
    "norm-twice": (
        lambda: Run(
            lambda m, x: m.n(m.a(x)) + m.n(m.b(x)),
            a=nn.Conv2d(4, 5, 3),
            b=nn.Conv2d(4, 5, 3),
            n=nn.BatchNorm2d(5),
        ),
        "n.weight is used 2 times",
    ),
    "weight-read": (
        lambda: Run(
            lambda m, x: m.n(m.a(x)) * m.a.weight.sum(), a=nn.Conv2d(4, 5, 3), n=nn.BatchNorm2d(5)
        ),
        "a.weight is used 2 times",
    ),
    "tied": (tied, "a.weight shares its memory"),
    "hook": (lambda: hooked("a"), "belongs to a module with hooks"),
    "hook-of-the-norm": (lambda: hooked("n"), "n.weight belongs to a module with hooks"),
    "parametrized": (parametrized, "no convolution or linear layer makes its channels"),
    "no-statistics": (
        lambda: chain(a=nn.Conv2d(4, 5, 3), n=nn.BatchNorm2d(5, track_running_stats=False)),
        "",
    ),
    "no-place-for-a-bias": (
        lambda: chain(a=Half(4, 5, 3, bias=False), n=nn.BatchNorm2d(5)),
        "a.weight: its module has no place for a bias",
    ),
    "activated": (
        lambda: chain(a=nn.Conv2d(4, 5, 3), n=Activated(5)),
        "Activated computes more",
    ),
    "functional": (
        by_function,
        "batch norm in the model not folded: Run computes more than a batch norm",
    ),
    "padded-convolution-after": (
        lambda: chain(n=nn.BatchNorm2d(4), a=nn.Conv2d(4, 5, 3, padding=1)),
        "the padding of a convolution is not shifted",
    ),
    "padded-by-hand-after": (
        lambda: chain(n=nn.BatchNorm2d(4), a=Padded(4, 5, 3)),
        "after it, read by constant_pad_nd",
    ),
    "transposed-after": (
        lambda: chain(n=nn.BatchNorm2d(4), a=nn.ConvTranspose2d(4, 5, 3)),
        "the padding of a convolution is not shifted",
    ),
    "two-layers-after": (
        lambda: Run(
            lambda m, x: m.a(y := m.n(x)) + m.b(y),
            n=nn.BatchNorm2d(4),
            a=nn.Conv2d(4, 5, 3),
            b=nn.Conv2d(4, 5, 3),
        ),
        "2 convolutions or linear layers read it",
    ),
}


@pytest.mark.parametrize(("build", "reason"), LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_leaves_alone(build: Callable[[], nn.Module], reason: str) -> None:
    model = ready(build())
    found = folds(model, numbers(*IMAGE))
    assert found.folds == ()
    assert any(reason in line for line in found.skipped) or not (found.skipped or reason)
    assert all("\n" not in line for line in found.skipped)


def test_padding_before_the_convolution_does_not_matter() -> None:
    model = ready(chain(a=Padded(4, 5, 3, bias=False), n=nn.BatchNorm2d(5)))
    found = folds(model, numbers(*IMAGE))
    assert [fold.bias for fold in found.folds] == ["a.bias"]


def test_a_residual_block_folds_its_own_norms_alone() -> None:
    model = ready(
        Run(
            lambda m, x: (y := m.n(m.a(x))) + m.m(m.b(y.relu())),
            a=nn.Conv2d(4, 4, 3, padding=1, bias=False),
            n=nn.BatchNorm2d(4),
            b=nn.Conv2d(4, 4, 3, padding=1, bias=False),
            m=nn.BatchNorm2d(4),
        )
    )
    found = folds(model, numbers(*IMAGE))
    assert [fold.norm for fold in found.folds] == ["n", "m"]


@pytest.mark.parametrize("variance", [0.0, 1e-30], ids=str)
def test_a_dead_channel_of_no_variance_stays_finite(variance: float) -> None:
    model = ready(chain(a=nn.Conv2d(4, 5, 3), n=nn.BatchNorm2d(5)))
    model.get_buffer("n.running_var")[2] = variance
    with torch.no_grad():
        model.get_parameter("a.weight")[2] = 0
    found = folds(model, numbers(*IMAGE))
    assert len(found.folds) == 1
    assert all(bool(p.isfinite().all()) for p in found.apply(model).parameters())


def test_an_infinite_factor_is_left_alone() -> None:
    model = ready(chain(a=nn.Conv2d(4, 5, 3, bias=False), n=nn.BatchNorm2d(5, eps=0.0)))
    with torch.no_grad():
        model.get_buffer("n.running_var")[2] = 0
        model.get_parameter("n.weight")[2] = 1
    x = numbers(*IMAGE)
    model.eval()
    found = find_equalization(Run(lambda m, y: m.inner(y)[:, :2], inner=model), x)
    assert found.folds == ()
    assert "its variance makes its factors infinite" in found.skipped[0]


def test_saves_what_the_norm_stored() -> None:
    model = ready(chain(a=nn.Conv2d(4, 5, 3, bias=False), n=nn.BatchNorm2d(5))).float()
    folded = find_equalization(model, numbers(*IMAGE).float()).apply(model)

    def size(module: nn.Module) -> int:
        return sum(item.stored_bytes for item in stored_tensors(module))

    # Four rows of five floats and a counter of eight bytes go, a bias of five floats comes.
    assert size(model) - size(folded) == 4 * 5 * 4 + 8 - 5 * 4
    assert type(folded.get_submodule("n")) is nn.Identity


def test_the_model_is_left_as_it_was() -> None:
    model = ready(chain(a=nn.Conv2d(4, 5, 3, bias=False), n=nn.BatchNorm2d(5)))
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = find_equalization(model, numbers(*IMAGE))
    found.apply(model)
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(module.training for module in found.apply(model).modules())
