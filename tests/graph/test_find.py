"""Weight units are found by parameter; shared storage is one unit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from mixq.errors import ModelError
from mixq.graph.find import find_units, matrix_view
from mixq.graph.state import stored_tensors


class Holder(nn.Module):
    """A module with the named parameters, tensors or modules."""

    def __init__(self, **parts: Tensor | nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if isinstance(part, Tensor) else part)


def lists() -> nn.Module:
    return Holder(experts=nn.ParameterList([torch.randn(4, 32), torch.randn(4, 32)]))


def tied_head() -> nn.Module:
    model = Holder(embed=nn.Embedding(10, 16), head=nn.Linear(16, 10, bias=False))
    model.head.weight = model.embed.weight  # type: ignore[union-attr]
    return model


def one_storage() -> nn.Module:
    shared = torch.randn(6, 16)
    return Holder(first=shared, second=shared)


def used_twice() -> nn.Module:
    layer = nn.Linear(16, 16)
    return Holder(first=layer, second=layer)


# id: model, {unit: (rows, columns, owner, aliases)}
UNITS: dict[str, tuple[nn.Module, dict[str, tuple[int, int, str, tuple[str, ...]]]]] = {
    "linear": (nn.Linear(20, 3), {"weight": (3, 20, "Linear", ())}),
    "conv1d": (nn.Conv1d(4, 6, 31, groups=2), {"weight": (6, 62, "Conv1d", ())}),
    "conv2d": (nn.Conv2d(4, 6, 3), {"weight": (6, 36, "Conv2d", ())}),
    "conv3d": (nn.Conv3d(2, 3, (1, 2, 3)), {"weight": (3, 12, "Conv3d", ())}),
    "depthwise": (nn.Conv2d(8, 8, 3, groups=8), {"weight": (8, 9, "Conv2d", ())}),
    "transposed": (
        nn.ConvTranspose2d(4, 6, 3),
        {"weight": (4, 54, "ConvTranspose2d", ())},
    ),
    "embedding": (nn.Embedding(11, 16), {"weight": (11, 16, "Embedding", ())}),
    "narrow-embedding": (nn.Embedding(11, 8), {"weight": (11, 8, "Embedding", ())}),
    "lstm": (
        nn.LSTM(16, 5, bidirectional=True, proj_size=2),
        {
            "weight_ih_l0": (20, 16, "LSTM", ()),
            "weight_hh_l0": (20, 2, "LSTM", ()),
            "weight_hr_l0": (2, 5, "LSTM", ()),
            "weight_ih_l0_reverse": (20, 16, "LSTM", ()),
            "weight_hh_l0_reverse": (20, 2, "LSTM", ()),
            "weight_hr_l0_reverse": (2, 5, "LSTM", ()),
        },
    ),
    "gru": (
        nn.GRU(16, 5),
        {"weight_ih_l0": (15, 16, "GRU", ()), "weight_hh_l0": (15, 5, "GRU", ())},
    ),
    "attention": (
        nn.MultiheadAttention(16, 2),
        {
            "in_proj_weight": (48, 16, "MultiheadAttention", ()),
            "out_proj.weight": (16, 16, "NonDynamicallyQuantizableLinear", ()),
        },
    ),
    "attention-kdim": (
        nn.MultiheadAttention(16, 2, kdim=20, vdim=24),
        {
            "q_proj_weight": (16, 16, "MultiheadAttention", ()),
            "k_proj_weight": (16, 20, "MultiheadAttention", ()),
            "v_proj_weight": (16, 24, "MultiheadAttention", ()),
            "out_proj.weight": (16, 16, "NonDynamicallyQuantizableLinear", ()),
        },
    ),
    "raw": (Holder(table=torch.randn(5, 32)), {"table": (5, 32, "Holder", ())}),
    "list": (
        lists(),
        {
            "experts.0": (4, 32, "ParameterList", ()),
            "experts.1": (4, 32, "ParameterList", ()),
        },
    ),
    "stacked-experts": (
        Holder(experts=torch.randn(3, 8, 32)),
        {"experts": (24, 32, "Holder", ())},
    ),
    "narrow-stack": (Holder(kernels=torch.randn(3, 8, 5)), {"kernels": (3, 40, "Holder", ())}),
    "weight-norm": (
        weight_norm(nn.Conv1d(4, 6, 31)),
        {
            "parametrizations.weight.original0": (6, 1, "ParametrizedConv1d", ()),
            "parametrizations.weight.original1": (6, 124, "ParametrizedConv1d", ()),
        },
    ),
    "vectors-left-alone": (
        Holder(norm=nn.LayerNorm(4), matrix=torch.randn(2, 16), empty=torch.empty(0, 16)),
        {"matrix": (2, 16, "Holder", ())},
    ),
    "tied-parameter": (tied_head(), {"embed.weight": (10, 16, "Embedding", ("head.weight",))}),
    "one-storage": (one_storage(), {"first": (6, 16, "Holder", ("second",))}),
    "used-twice": (used_twice(), {"first.weight": (16, 16, "Linear", ("second.weight",))}),
}


@pytest.mark.parametrize(("model", "expected"), UNITS.values(), ids=UNITS)
def test_units(
    model: nn.Module, expected: dict[str, tuple[int, int, str, tuple[str, ...]]]
) -> None:
    units = find_units(model)
    found = {unit.name: (unit.rows, unit.columns, unit.module, unit.aliases) for unit in units}
    assert found == expected
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for unit in units:
        assert unit.shape == tuple(parameters[unit.name].shape)
        assert unit.weights == parameters[unit.name].numel()
        assert unit.element_bytes == 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_other_floats_are_units(dtype: torch.dtype) -> None:
    (unit,) = find_units(nn.Linear(16, 2).to(dtype))
    assert unit.element_bytes == dtype.itemsize


def test_float8_is_checked_and_found() -> None:
    weights = torch.ones(2, 16).to(torch.float8_e4m3fn)
    model = nn.Module()
    model.weight = nn.Parameter(weights, requires_grad=False)
    assert [unit.element_bytes for unit in find_units(model)] == [1]
    model.weight.view(torch.uint8)[0, 0] = 0x7F  # NaN of e4m3
    with pytest.raises(ModelError, match="weight has 1 NaN"):
        find_units(model)


def test_integer_and_complex_parameters_are_no_units() -> None:
    model = nn.Linear(16, 2)
    model.table = nn.Parameter(torch.zeros(4, 4, dtype=torch.int64), requires_grad=False)
    model.phases = nn.Parameter(torch.zeros(4, 4, dtype=torch.complex64))
    assert [unit.name for unit in find_units(model)] == ["weight"]


def windows_of_one_matrix() -> dict[str, tuple[Tensor, Tensor]]:
    base = torch.randn(8, 16)
    return {
        "part": (base, base[:3]),
        "transposed": (base, base.t()),
        "reshaped": (base, base.view(16, 8)),
        "sliding": (base[:5], base[3:]),
    }


@pytest.mark.parametrize(
    "pair", windows_of_one_matrix().values(), ids=windows_of_one_matrix().keys()
)
def test_overlapping_windows_are_left_alone(pair: tuple[Tensor, Tensor]) -> None:
    model = Holder(first=pair[0], second=pair[1], other=torch.randn(2, 16))
    assert [unit.name for unit in find_units(model)] == ["other"]


def test_disjoint_windows_are_units() -> None:
    base = torch.randn(8, 32)
    model = Holder(top=base[:4], left=base[4:, :16], right=base[4:, 16:])
    assert [unit.name for unit in find_units(model)] == ["top", "left", "right"]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ["0.weight", "1.bias"])
def test_bad_weight_is_named(name: str, bad: float) -> None:
    model = nn.Sequential(nn.Linear(16, 2), nn.Linear(2, 3))
    model.get_parameter(name).data.view(-1)[1] = bad
    count = model.get_parameter(name).numel()
    with pytest.raises(ModelError, match=f"{name} has 1 NaN or infinite weights of {count};"):
        find_units(model)


@pytest.mark.parametrize("model", [nn.ReLU(), nn.LayerNorm(4)], ids=["empty", "vectors"])
def test_no_unit_is_refused(model: nn.Module) -> None:
    with pytest.raises(ModelError, match=f"model {type(model).__name__} has no weight unit"):
        find_units(model)


def test_given_tensors_are_used() -> None:
    model = nn.Sequential(nn.Linear(16, 2), nn.Linear(2, 3))
    assert [unit.name for unit in find_units(model, stored_tensors(model)[:1])] == ["0.weight"]


@pytest.mark.parametrize(
    ("shape", "is_convolution", "expected"),
    [
        ((5, 32), False, (5, 32)),
        ((5, 15), False, (5, 15)),
        ((5, 4, 16), False, (20, 16)),
        ((5, 4, 15), False, (5, 60)),
        ((5, 4, 16), True, (5, 64)),
    ],
)
def test_matrix_view(
    shape: tuple[int, ...], is_convolution: bool, expected: tuple[int, int]
) -> None:
    assert matrix_view(shape, is_convolution=is_convolution) == expected
