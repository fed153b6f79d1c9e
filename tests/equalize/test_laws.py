"""Laws: whatever the network, what is found leaves its function as it is."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mixq.equalize.equalization import Equalization
from mixq.equalize.find import find_equalization
from mixq.equalize.sites import Layout

from .helpers import four_bits

KINDS = (
    *("conv", "depthwise", "transposed", "norm", "group norm", "relu", "relu6", "leaky", "gelu"),
    *("pool", "shuffle", "add", "gate", "cat", "put out", "again", "turn"),
)
Step = tuple[str, int, bool]
ANY = st.tuples(st.sampled_from(KINDS), st.integers(0, 5), st.booleans())
LAYER = st.tuples(st.sampled_from(KINDS[:4]), st.integers(0, 5), st.booleans())
STEPS = st.lists(st.one_of(ANY, LAYER, LAYER), min_size=2, max_size=12)
PLAIN: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU, "relu6": nn.ReLU6, "leaky": nn.LeakyReLU, "gelu": nn.GELU
}  # fmt: skip


class Net(nn.Module):
    """Steps on one activation; `add`, `gate` and `cat` look back to an earlier one."""

    def __init__(self, steps: list[Step]) -> None:
        super().__init__()
        self.steps = steps
        self.layers = nn.ModuleDict()
        widths, width = [4], 4
        for index, (kind, choice, flag) in enumerate(steps):
            layer: nn.Module | None = None
            if kind == "conv":
                groups = 2 if flag else 1
                out = 2 * (1 + choice % 3)
                layer = nn.Conv2d(width, out, 1 + 2 * (choice % 2), padding=choice % 2,
                                  groups=groups, bias=choice < 3)  # fmt: skip
                width = out
            elif kind == "depthwise":
                layer = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=flag)
            elif kind == "transposed":
                layer = nn.ConvTranspose2d(width, 4, 3, padding=1, groups=2, bias=flag)
                width = 4
            elif kind == "norm":
                layer = nn.BatchNorm2d(width, affine=flag)
            elif kind == "group norm":
                layer = nn.GroupNorm(2, width)
            elif kind in PLAIN:
                layer = PLAIN[kind]()
            elif kind == "shuffle":
                layer = nn.ChannelShuffle(2)
            elif kind == "pool":
                layer = (nn.MaxPool2d if flag else nn.AvgPool2d)(3, 1, 1)
            elif kind == "cat":
                width += widths[choice % len(widths)]
            if layer is not None:
                self.layers[str(index)] = layer
            widths.append(width)

    def forward(self, x: Tensor) -> Any:
        seen, out = [x], []
        for index, (kind, choice, flag) in enumerate(self.steps):
            earlier = seen[choice % len(seen)]
            fits = earlier.shape == x.shape
            if str(index) in self.layers:
                x = self.layers[str(index)](x)
            elif kind == "add" and fits:
                x = x + earlier
            elif kind == "gate" and fits:
                x = x * (earlier.sigmoid() if flag else earlier)
            elif kind == "cat":
                x = torch.cat([x, earlier], 1)
            elif kind == "put out":
                out.append(x[:, :2] if flag else x)
            elif kind == "again" and self.layers:
                layer = self.layers[list(self.layers)[choice % len(self.layers)]]
                x = layer(x) if width_of(layer) in (None, x.shape[1]) else x
            elif kind == "turn":
                x = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).relu().view(
                    len(x), *x.shape[2:], -1).permute(0, 3, 1, 2)  # fmt: skip
            if seen[-1].shape[1] != x.shape[1] and kind == "again":
                x = seen[-1]
            seen.append(x)
        return [x, *out]


def width_of(layer: nn.Module) -> int | None:
    """Channels that it reads; None if it takes any."""
    for name in ("in_channels", "num_features", "num_channels"):
        width = getattr(layer, name, None)
        if isinstance(width, int):
            return width
    return None


def made(steps: list[Step], seed: int) -> Net:
    model = Net(steps).double().eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=random))
                tensor[0] = 0  # a dead channel
            if name.endswith("running_var"):
                tensor.abs_()
    return model


@given(STEPS, st.integers(0, 99))
@settings(derandomize=True, deadline=None, max_examples=150)
def test_equalized_networks_compute_the_same(steps: list[Step], seed: int) -> None:
    model = made(steps, seed)
    x = torch.randn(3, 4, 5, 4, generator=torch.Generator().manual_seed(seed)).double()
    found = find_equalization(model, x, input_scaling=True, round_trip=four_bits)
    equalized = found.apply(model)
    with torch.no_grad():
        for before, after in zip(model(x), equalized(x), strict=True):
            # Dead variances amplify what rounding leaves by up to 1 / sqrt(eps) per batch norm.
            assert float((before - after).norm()) <= 1e-8 * float(before.norm())
    assert all(bool(tensor.isfinite().all()) for tensor in equalized.state_dict().values())
    read = Equalization.from_tensors(found.header(), found.tensors())
    again = read.apply(model).state_dict()
    assert all(torch.equal(again[name], t) for name, t in equalized.state_dict().items())


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.booleans())
@settings(derandomize=True, deadline=None, max_examples=40)
def test_indices_name_the_channels_of_a_grouped_convolution(
    groups: int, outputs: int, inputs: int, is_transposed: bool
) -> None:
    """Scaling by the index equals scaling the activations."""
    kind = nn.ConvTranspose2d if is_transposed else nn.Conv2d
    layer = kind(groups * inputs, groups * outputs, 2, groups=groups, bias=False).double()
    axes = (1, 0) if is_transposed else (0, 1)
    layout = Layout(tuple(layer.weight.shape), *axes, groups)
    assert layout.output_channels == groups * outputs
    made = torch.arange(1, groups * outputs + 1).double()
    read = torch.arange(2, groups * inputs + 2).double()
    x = torch.randn(2, groups * inputs, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        expected = layer(x * read.view(1, -1, 1, 1)) * made.view(1, -1, 1, 1)
        factor_of_outputs = made[layout.index(torch.arange(len(made)), layout.outputs).long()]
        factor_of_inputs = read[layout.index(torch.arange(len(read)), axes[1]).long()]
        layer.weight *= factor_of_outputs * factor_of_inputs
        torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
