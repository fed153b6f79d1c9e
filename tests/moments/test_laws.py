"""The law that moments exist for: a unit's mean squared output is tr(W H W^T)."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mixq.calibration import Calibration
from mixq.graph.find import find_units
from mixq.moments.collect import collect

LAW = settings(derandomize=True, deadline=None, max_examples=60)


def check(layer: nn.Module, data: Tensor, outputs: Tensor, channels: int) -> None:
    """`outputs`, without bias, hold every position's outputs in dimension `channels`."""
    (unit,) = find_units(layer)
    found = collect(layer, Calibration.of(list(data.split(2))), [unit])[unit.name]
    weight = dict(layer.named_parameters())[unit.name].detach().reshape(unit.rows, unit.columns)
    positions = outputs.numel() // unit.rows
    assert found.counts.tolist() == [positions] * found.groups
    assert found.second is not None
    weight, second = weight.double(), found.second.double()[found.of_rows(unit.rows)]
    predicted = torch.einsum("ri,rij,rj->r", weight, second, weight)
    measured = outputs.double().square().movedim(channels, 0).reshape(unit.rows, -1).mean(1)
    # Each entry of H is off by at most positions * 2^-24 of its factors' sizes; the outputs, as
    # sums of `columns` products, by at most columns * 2^-24 of theirs.
    sizes = found.diagonal.double().sqrt()[found.of_rows(unit.rows)]
    bound = (weight.abs() * sizes).sum(1).square()
    slack = (positions + 4 * unit.columns + 16) * 2.0**-24
    assert bool(((predicted - measured).abs() <= slack * bound).all())
    mean = (weight * found.mean.double()[found.of_rows(unit.rows)]).sum(1)
    average = outputs.double().movedim(channels, 0).reshape(unit.rows, -1).mean(1)
    assert bool(((mean - average).abs() <= slack * bound.sqrt()).all())


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    space = draw(st.integers(1, 3))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(space))

    groups = draw(st.integers(1, 3))
    kernel, dilation = each(1, 3), each(1, 2)
    reach = [gap * (width - 1) + 1 for gap, width in zip(dilation, kernel, strict=True)]
    layer = getattr(nn, f"Conv{space}d")(
        groups * draw(st.integers(1, 3)),
        groups * draw(st.integers(1, 3)),
        kernel,
        stride=each(1, 3),
        padding=draw(st.sampled_from(["valid", each(0, 2)])),
        dilation=dilation,
        groups=groups,
        bias=False,
    )
    sizes = [least + draw(st.integers(0, 4)) for least in reach]
    samples = draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    mean = draw(st.sampled_from([0.0, 3.0]))
    data = torch.randn(samples, layer.in_channels, *sizes, generator=generator) + mean
    return layer, data


@LAW
@given(convolutions())
def test_convolution(case: tuple[nn.Module, Tensor]) -> None:
    layer, data = case
    with torch.no_grad():
        check(layer, data, layer(data), channels=1)


@LAW
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.integers(1, 40),
    st.integers(1, 9),
    st.booleans(),
)
def test_linear(leading: list[int], columns: int, rows: int, turned: bool) -> None:
    layer = nn.Linear(columns, rows, bias=False)
    if turned:  # the same matrix, stored column by column
        layer.weight.data = layer.weight.data.t().contiguous().t()
    data = torch.randn(*leading, columns, generator=torch.Generator().manual_seed(rows))
    with torch.no_grad():
        check(layer, data, layer(data), channels=-1)
