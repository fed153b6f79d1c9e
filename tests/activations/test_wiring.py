"""Quantized inputs in models: which units qualify, their ranges, and hooks that leave no trace."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from mixq.activations.fake import fake_blocks, fake_dynamic, fake_static
from mixq.activations.input_range import InputRange
from mixq.activations.inputs import quantizable_inputs
from mixq.activations.ranges import collect_ranges
from mixq.activations.wiring import (
    granularity,
    input_quantizer,
    install_quantizers,
    quantized_inputs,
)
from mixq.calibration import Calibration
from mixq.errors import ArtifactError, CalibrationError, FormatError, ModelError, UsageError
from mixq.formats import Format
from mixq.graph.find import find_units

DYNAMIC, STATIC = Format(8, activation="dynamic"), Format(8, activation="static")


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class PaddedConv(nn.Conv2d):
    """Pads inside forward, as EfficientNet-Lite's convolutions do."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(functional.pad(input, (0, 1, 0, 1)))


class Conv1D(nn.Module):
    """Stands for the Conv1D of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(randn(16, 16))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


Conv1D.__module__ = "transformers.pytorch_utils"


class WithAdapter(nn.Linear):
    """A Linear with a second matrix, which meets something else."""

    def __init__(self) -> None:
        super().__init__(16, 16)
        self.adapter = nn.Parameter(randn(16, 16))


class Tied(nn.Module):
    """A table that is a head as well."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 16)
        self.head = nn.Linear(16, 20, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        output: Tensor = self.head(self.table(ids))
        return output


class Twice(nn.Module):
    """One module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = self.first

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.second(self.first(x).relu())
        return output


class TiedToRaw(nn.Module):
    """A Linear whose weight somebody else multiplies too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)
        self.raw = self.layer.weight


def tied_linears() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    model[2].weight = model[0].weight
    return model


def weight_normed() -> nn.Module:
    layer = nn.Linear(16, 16)
    nn.utils.parametrizations.weight_norm(layer)
    return layer


MODELS: dict[str, tuple[Callable[[], nn.Module], dict[str, tuple[str, ...]]]] = {
    "linear": (lambda: nn.Linear(16, 4), {"weight": ("",)}),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(2, 4, 8)), {"0.weight": ("0",)}),
    "conv2d-subclass": (lambda: nn.Sequential(PaddedConv(2, 4, 2)), {"0.weight": ("0",)}),
    "conv-transpose": (lambda: nn.Sequential(nn.ConvTranspose2d(2, 4, 3)), {"0.weight": ("0",)}),
    "transformers-conv1d": (lambda: nn.Sequential(Conv1D()), {"0.weight": ("0",)}),
    "adapter": (lambda: nn.Sequential(WithAdapter()), {"0.weight": ("0",)}),
    "embedding": (lambda: nn.Sequential(nn.Embedding(20, 16)), {}),
    "lstm": (lambda: nn.LSTM(16, 16), {}),
    "bilinear": (lambda: nn.Bilinear(16, 16, 2), {}),
    "attention": (lambda: nn.MultiheadAttention(16, 2), {}),
    "parametrized": (weight_normed, {}),
    "tied-head": (Tied, {"table.weight": ("head",)}),
    "tied-linears": (tied_linears, {"0.weight": ("0", "2")}),
    "tied-to-raw": (TiedToRaw, {}),
    "twice": (Twice, {"first.weight": ("first",)}),
}


@pytest.mark.parametrize(("make", "expected"), MODELS.values(), ids=MODELS)
def test_units_that_qualify(
    make: Callable[[], nn.Module], expected: dict[str, tuple[str, ...]]
) -> None:
    model = make()
    assert quantizable_inputs(model, find_units(model)) == expected


def test_attention_in_a_transformer_is_left_out() -> None:
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    assert quantizable_inputs(model, find_units(model)) == {
        "linear1.weight": ("linear1",),
        "linear2.weight": ("linear2",),
    }


def test_a_transformers_fast_path_does_not_go_around_the_quantizers() -> None:
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    seen: list[str] = []

    def note(x: Tensor) -> Tensor:
        seen.append("x")
        return x

    with torch.no_grad(), quantized_inputs(model, {"linear1": note, "linear2": note}):
        model(randn(2, 3, 16))
    assert seen == ["x", "x"]


def test_ranges_are_those_of_the_inputs() -> None:
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    batches = [randn(3, 16, seed=seed) for seed in range(3)]
    found = collect_ranges(model, Calibration.of(batches), find_units(model))
    x = torch.cat(batches)
    hidden = model[1](model[0](x)).detach()
    assert list(found) == ["0.weight", "2.weight"]
    assert found["0.weight"] == InputRange(float(x.min()), float(x.max()))
    assert found["2.weight"].low == 0
    assert found["2.weight"].high == pytest.approx(float(hidden.max()), rel=1e-6)


def test_a_unit_of_two_modules_has_one_range() -> None:
    model = tied_linears()
    x = randn(5, 16) / 100  # the hidden numbers are larger: they come from the bias
    found = collect_ranges(model, Calibration.of(x), find_units(model))
    hidden = model[1](model[0](x)).detach()
    assert found["0.weight"].low == float(x.min())
    assert float(hidden.max()) > float(x.max())
    assert found["0.weight"].high == pytest.approx(float(hidden.max()))


class Skips(nn.Module):
    """Never calls one of its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(16, 16)
        self.idle = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.used(input=x)
        return output


def test_units_that_nothing_reaches_have_no_range() -> None:
    model = Skips()
    assert list(collect_ranges(model, Calibration.of(randn(2, 16)), find_units(model))) == [
        "used.weight"
    ]


class Explodes(nn.Module):
    """Makes infinity on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layer(x / 0)
        return output


def test_an_infinite_input_is_refused_by_name() -> None:
    model = Explodes()
    with pytest.raises(CalibrationError, match=r"input of layer\.weight: .* NaN or infinity"):
        collect_ranges(model, Calibration.of(randn(2, 16)), find_units(model))
    assert not model.layer._forward_pre_hooks


def test_collecting_reports_and_leaves_the_model_alone() -> None:
    model = nn.Sequential(nn.Linear(16, 8), nn.Dropout(0.5)).train()
    steps: list[tuple[str, int, int]] = []
    batches = [randn(2, 16), randn(2, 16)]
    collect_ranges(
        model,
        Calibration.of(batches),
        find_units(model),
        "mse",
        lambda stage, done, total: steps.append((stage, done, total)),
    )
    assert steps == [("input ranges", done, 2) for done in range(3)]
    assert model.training
    assert not model[0]._forward_pre_hooks


@pytest.mark.parametrize(
    ("fmt", "per", "expected"),
    [
        (DYNAMIC, "tensor", fake_dynamic),
        (DYNAMIC, "token", lambda x: fake_dynamic(x, "token")),
        (Format(4, 32, activation="dynamic"), "block", lambda x: fake_blocks(x, 32)),
        (STATIC, "tensor", lambda x: fake_static(x, *InputRange(-1.0, 2.0).steps())),
    ],
    ids=["dynamic", "token", "block", "static"],
)
def test_quantizer_of_a_format(
    fmt: Format, per: str, expected: Callable[[Tensor], Tensor]
) -> None:
    x = randn(4, 3, 64)
    quantizer = input_quantizer(fmt, InputRange(-1.0, 2.0).tensors(), per=per)  # type: ignore[arg-type]
    assert torch.equal(quantizer(x), expected(x))


@pytest.mark.parametrize(
    ("name", "module", "expected"),
    [
        ("w8a8-dynamic", nn.Linear(4, 4), "tensor"),
        ("w4a8g32-dynamic", nn.Linear(4, 4), "block"),
        ("w4a8g32-dynamic", nn.Conv2d(2, 2, 1), "tensor"),
        ("w4a8g32-dynamic", Conv1D(), "block"),
    ],
)
def test_granularity_of_onnxruntime(name: str, module: nn.Module, expected: str) -> None:
    assert granularity(Format.parse(name), module) == expected


GOOD = InputRange(-1.0, 1.0).tensors()
FAULTS = {
    "no-activations": (Format(8), {}, "tensor", FormatError, "leaves activations as they are"),
    "no-groups": (DYNAMIC, {}, "block", FormatError, "has no groups"),
    "no-range": (STATIC, {}, "tensor", ArtifactError, "is missing"),
    "wrong-dtype": (
        STATIC,
        {**GOOD, "input_zero": torch.zeros(1)},
        "tensor",
        ArtifactError,
        "must be torch.float32",
    ),
    "wrong-shape": (
        STATIC,
        {**GOOD, "input_scale": torch.ones(2)},
        "tensor",
        ArtifactError,
        "must be torch.float32",
    ),
    "zero-scale": (
        STATIC,
        {**GOOD, "input_scale": torch.zeros(1)},
        "tensor",
        ArtifactError,
        "positive and finite",
    ),
    "nan-scale": (
        STATIC,
        {**GOOD, "input_scale": torch.full((1,), float("nan"))},
        "tensor",
        ArtifactError,
        "positive and finite",
    ),
}


@pytest.mark.parametrize(("fmt", "tensors", "per", "kind", "reason"), FAULTS.values(), ids=FAULTS)
def test_quantizers_that_cannot_be(
    fmt: Format, tensors: dict[str, Tensor], per: str, kind: type[Exception], reason: str
) -> None:
    with pytest.raises(kind, match=reason) as caught:
        input_quantizer(fmt, tensors, per=per)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_inputs_are_replaced_and_then_no_more() -> None:
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    x = randn(3, 16)
    plain = model(x)
    with quantized_inputs(model, {"0": fake_dynamic, "2": fake_dynamic}):
        found = model(x)
    expected = model[2](fake_dynamic(model[1](model[0](fake_dynamic(x)))))
    assert torch.equal(found, expected)
    assert not torch.equal(found, plain)
    assert torch.equal(model(x), plain)


def test_padding_inside_a_module_stays_zero() -> None:
    conv = PaddedConv(2, 4, 2)
    x = randn(1, 2, 5, 5) + 3  # the range starts at zero, far from the data
    with quantized_inputs(conv, {"": fake_dynamic}):
        found = conv(x)
    assert torch.equal(found, conv(fake_dynamic(x)))


@pytest.mark.parametrize("by_keyword", [False, True], ids=["position", "keyword"])
def test_the_input_is_found_by_position_or_keyword(by_keyword: bool) -> None:
    layer, x = nn.Linear(16, 4), randn(2, 16)
    with quantized_inputs(layer, {"": fake_dynamic}):
        found = layer(input=x) if by_keyword else layer(x)
    assert torch.equal(found, layer(fake_dynamic(x)))


def test_other_arguments_are_passed_on() -> None:
    layer, x = nn.ConvTranspose2d(2, 3, 3, stride=2), randn(1, 2, 4, 4)
    with quantized_inputs(layer, {"": fake_dynamic}):
        found = [layer(x, output_size=[10, 10]), layer(x, [10, 10])]
    assert all(torch.equal(y, layer(fake_dynamic(x), [10, 10])) for y in found)


def test_hooks_go_whatever_happens() -> None:
    model = nn.Sequential(nn.Linear(16, 8))
    with pytest.raises(RuntimeError, match="as asked"), quantized_inputs(model, {"0": fail}):
        model(randn(1, 16))
    assert not model[0]._forward_pre_hooks


def fail(_x: Tensor) -> Tensor:
    raise RuntimeError("as asked")


def test_together_with_functional_call() -> None:
    layer, x = nn.Linear(16, 8), randn(3, 16)
    model = nn.Sequential(layer)
    weight = randn(8, 16, seed=1)
    with quantized_inputs(model, {"0": fake_dynamic}):
        found = functional_call(model, {"0.weight": weight}, (x,))
    assert torch.equal(found, functional.linear(fake_dynamic(x), weight, layer.bias))


def test_installed_quantizers_stay_and_are_copied() -> None:
    layer, x = nn.Linear(16, 8), randn(3, 16)
    model = nn.Sequential(layer)
    expected = layer(fake_dynamic(x))
    handles = install_quantizers(model, {"0": fake_dynamic})
    assert torch.equal(model(x), expected)
    assert torch.equal(copy.deepcopy(model)(x), expected)
    for handle in handles:
        handle.remove()
    assert not torch.equal(model(x), expected)


def test_modules_that_cannot_be_quantized() -> None:
    model = Twice()
    with pytest.raises(ModelError, match="has no module 'third'"):
        install_quantizers(model, {"first": fake_dynamic, "third": fake_dynamic})
    with pytest.raises(UsageError, match="'first' and 'second' are one"):
        install_quantizers(model, {"first": fake_dynamic, "second": fake_dynamic})
    assert not model.first._forward_pre_hooks


@pytest.mark.parametrize(
    ("module", "args", "kwargs", "reason"),
    [
        (nn.Bilinear(2, 2, 2), (), {"input1": randn(1, 2), "input2": randn(1, 2)}, "2 tensors"),
        (nn.Embedding(4, 16), (torch.zeros(2, dtype=torch.long),), {}, "torch.int64"),
        (nn.Identity(), (3,), {}, "0 tensors"),
    ],
    ids=["two-inputs", "indices", "no-tensor"],
)
def test_calls_without_one_input(
    module: nn.Module, args: tuple[object, ...], kwargs: dict[str, Tensor], reason: str
) -> None:
    with pytest.raises(ModelError, match=reason), quantized_inputs(module, {"": fake_dynamic}):
        module(*args, **kwargs)
