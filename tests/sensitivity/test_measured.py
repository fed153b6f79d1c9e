"""Measured errors against a naive reference that copies the model and overwrites its weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from mixq.calibration import Calibration
from mixq.errors import CalibrationError, FormatError, ModelError
from mixq.formats import Format
from mixq.graph.find import find_units
from mixq.graph.units import WeightUnit
from mixq.quantize.weights import round_trip
from mixq.rounding.rounder import Rounder
from mixq.sensitivity.joint import dequantized_copy, joint_errors
from mixq.sensitivity.measured import STAGE, measure
from mixq.sensitivity.reference import Reference
from mixq.sensitivity.store import Store
from mixq.sensitivity.table import SensitivityTable

W32, W8, W4, W2 = map(Format.parse, ("w32", "w8", "w4g16", "w2g16-zp"))
FORMATS = (W32, Format(16), W8, W4, W2)


def x(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


class Tied(nn.Module):
    """One Parameter object under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 16)
        self.head = nn.Linear(16, 9, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        result: Tensor = self.head(self.embed(tokens).tanh())
        return result


class OneStorage(nn.Module):
    """Two Parameter objects over one storage."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(16, 16))
        self.second = nn.Parameter(self.first.detach())

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.first).tanh() @ self.second


class UsedTwice(nn.Module):
    """One module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = self.first

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(self.first(x).tanh())
        return result


class Raw(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(5, 16))
        self.experts = nn.ParameterList([torch.randn(16, 3), torch.randn(16, 3)])
        self.stack = nn.Parameter(torch.randn(2, 3, 16))

    def forward(self, x: Tensor) -> Tensor:
        hidden = x + self.table
        return torch.stack(
            [(hidden @ e) @ s for e, s in zip(self.experts, self.stack, strict=True)], 1
        )


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return result


class Returns(nn.Module):
    """A linear layer whose output is wrapped by `wrap`."""

    def __init__(self, wrap: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 4)
        self.wrap = wrap

    def forward(self, x: Tensor) -> object:
        return self.wrap(self.linear(x))


class Regularized(nn.Module):
    """In train mode everything in it moves or is random."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 8)
        self.norm = nn.BatchNorm1d(8)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.dropout(self.norm(self.linear(x)))
        return result


class Noisy(nn.Module):
    """Draws random numbers in its forward even in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.linear(x)
        return hidden + torch.randn_like(hidden)


def model_output(**items: object) -> object:
    utils = pytest.importorskip("transformers.utils", reason="an extra")
    return utils.ModelOutput(items)


@dataclass
class Case:
    """A model, its data, and how to find the compared tensor in its output."""

    make: Callable[[], nn.Module]
    data: object
    pick: Callable[[Any], Tensor] = field(default=lambda output: output)
    name: str = ""


TOKENS = torch.arange(12).view(3, 4) % 9
PAIRS = {"x": x(3, 16), "y": x(3, 16, seed=2)}


class Keywords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 8)

    def forward(self, *, x: Tensor, y: Tensor) -> Tensor:
        result: Tensor = self.linear(x) * self.linear(y)
        return result


CASES: dict[str, Case] = {
    "linear": Case(lambda: nn.Linear(16, 5), x(4, 16)),
    "one-number": Case(lambda: nn.Sequential(nn.Linear(16, 1), nn.Flatten(0)), x(4, 16)),
    "conv1d": Case(lambda: nn.Conv1d(4, 6, 5), x(3, 4, 9)),
    "conv2d": Case(lambda: nn.Conv2d(4, 6, 3, groups=2), x(3, 4, 6, 6)),
    "depthwise": Case(lambda: nn.Conv2d(6, 6, 3, groups=6), x(3, 6, 6, 6)),
    "transposed": Case(lambda: nn.ConvTranspose2d(4, 6, 3, stride=2), x(3, 4, 5, 5)),
    "embedding": Case(lambda: nn.Embedding(9, 16), TOKENS),
    "lstm": Case(
        lambda: nn.LSTM(16, 8, 2, batch_first=True, bidirectional=True),
        x(3, 5, 16),
        lambda out: out[0],
        "0",
    ),
    "gru": Case(lambda: nn.GRU(16, 8, batch_first=True), x(3, 5, 16), lambda out: out[0], "0"),
    "attention": Case(SelfAttention, x(3, 5, 16)),
    "encoder-layer": Case(
        lambda: nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), x(3, 5, 16)
    ),
    "weight-norm": Case(lambda: weight_norm(nn.Linear(16, 5)), x(4, 16)),
    "tied": Case(Tied, TOKENS),
    "one-storage": Case(OneStorage, x(4, 16)),
    "used-twice": Case(UsedTwice, x(4, 16)),
    "raw": Case(Raw, x(3, 5, 16)),
    "keywords": Case(Keywords, PAIRS),
    "positional": Case(lambda: nn.Bilinear(16, 16, 3), (x(4, 16), x(4, 16, seed=2))),
    "batches": Case(lambda: nn.Linear(16, 5), [x(4, 16), x(2, 16, seed=3)]),
    "train-mode": Case(lambda: Regularized().train(), x(4, 16)),
    "half": Case(lambda: nn.Linear(16, 5).to(torch.bfloat16), x(4, 16).bfloat16()),
    "double": Case(lambda: nn.Linear(16, 5).double(), x(4, 16).double()),
    "tuple": Case(lambda: Returns(lambda out: (TOKENS, out)), x(4, 16), lambda out: out[1], "1"),
    "nested": Case(
        lambda: Returns(lambda out: {"ids": TOKENS, "deep": [{"logits": out}]}),
        x(4, 16),
        lambda out: out["deep"][0]["logits"],
        "deep.0.logits",
    ),
    "logits-first": Case(
        lambda: Returns(lambda out: {"loss": out.sum(), "logits": out}),
        x(4, 16),
        lambda out: out["logits"],
        "logits",
    ),
    "model-output": Case(
        lambda: Returns(lambda out: model_output(loss=None, last_hidden_state=out)),
        x(4, 16),
        lambda out: out.last_hidden_state,
        "last_hidden_state",
    ),
}


def naive(case: Case, unit: WeightUnit, fmt: Format) -> list[float]:
    """Copy the model, overwrite `.data` under every name, run both, compare every sample."""
    original = seeded(case.make).eval()
    changed = copy.deepcopy(original)
    weight = original.get_parameter(unit.name).detach()
    for name in (unit.name, *unit.aliases):
        changed.get_parameter(name).data = round_trip(weight, fmt, unit.rows, unit.columns)
    errors = []
    for batch in Calibration.of(case.data).batches:
        with torch.no_grad():
            if isinstance(batch, dict):
                outputs = original(**batch), changed(**batch)
            elif isinstance(batch, tuple):
                outputs = original(*batch), changed(*batch)
            else:
                outputs = original(batch), changed(batch)
        before, after = (case.pick(output).double() for output in outputs)
        errors += [(a - b).square().mean().item() for a, b in zip(after, before, strict=True)]
    return errors


def all_formats(units: Sequence[WeightUnit]) -> Mapping[str, Sequence[Format]]:
    return {unit.name: FORMATS for unit in units}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_errors_are_those_of_the_naive_reference(
    case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    model = seeded(case.make)
    calibration = Calibration.of(case.data)
    units = find_units(model)
    modes = [module.training for module in model.modules()]
    before = {name: (tensor, tensor.clone()) for name, tensor in state(model).items()}
    store = Store(None)
    table = measure(model, calibration, units, all_formats(units), store=store)
    assert caplog.records == []  # what follows each unit was run, not the whole model
    assert table.output == case.name
    assert list(table.entries) == [unit.name for unit in units]
    for unit in units:
        assert tuple(table.entries[unit.name]) == FORMATS
        for fmt in FORMATS:
            expected = torch.tensor(naive(case, unit, fmt), dtype=torch.float64)
            measured = torch.tensor(store.get(unit.name, fmt.name), dtype=torch.float64)
            # Where weights lie in memory decides how torch sums: outputs of size 1 move by some
            # 2^-23, so root mean squares of differences move by no more than that.
            torch.testing.assert_close(measured.sqrt(), expected.sqrt(), rtol=1e-5, atol=1e-6)
            entry = table.entries[unit.name][fmt]
            assert entry.samples == calibration.samples
            assert entry.error == pytest.approx(measured.mean().item(), rel=1e-12)
            se = measured.std().item() / len(measured) ** 0.5
            assert entry.error_se == pytest.approx(se, rel=1e-9, abs=1e-30)
        assert table.entries[unit.name][W32].error == 0.0
        assert table.entries[unit.name][W2].error > 0.0
    # Nothing of the model has changed: tensors are the same objects, with the same numbers.
    assert [module.training for module in model.modules()] == modes
    for name, tensor in state(model).items():
        assert tensor is before[name][0], name
        assert torch.equal(tensor, before[name][1]), name
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            pairs = zip(module._flat_weights, module._flat_weights_names, strict=True)
            assert all(weight is getattr(module, name) for weight, name in pairs)


def state(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.state_dict(keep_vars=True))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_joint_errors_are_those_of_the_copy(case: Case) -> None:
    model = seeded(case.make).eval()
    units = {unit.name: unit for unit in find_units(model)}
    calibration = Calibration.of(case.data)
    choices = (W4, W32, W8)
    assignment = {name: choices[i % 3] for i, name in enumerate(units)}
    reference = Reference(model, calibration)
    rounder = Rounder(model, units)
    errors = joint_errors(rounder, assignment, {"calibration": reference}, "a plan")
    changed = dequantized_copy(rounder, assignment)
    assert changed is not model
    for name, unit in units.items():
        for alias in (name, *unit.aliases):
            weight = model.get_parameter(name).detach()
            expected = round_trip(weight, assignment[name], unit.rows, unit.columns)
            assert torch.equal(changed.get_parameter(alias), expected), alias
    expected_errors = []
    for batch in calibration.batches:
        with torch.no_grad():
            args = batch if isinstance(batch, tuple) else (batch,)
            outputs = [
                m(**batch) if isinstance(batch, dict) else m(*args) for m in (model, changed)
            ]
        first, second = (case.pick(output).double() for output in outputs)
        expected_errors += [
            (a - b).square().mean().item() for a, b in zip(second, first, strict=True)
        ]
    assert list(errors) == ["calibration"]
    assert errors["calibration"] == pytest.approx(expected_errors, rel=1e-5, abs=1e-12)


def test_assignment_of_nothing_is_no_error() -> None:
    model = nn.Linear(16, 5)
    units = {unit.name: unit for unit in find_units(model)}
    reference = Reference(model, Calibration.of(x(4, 16)))
    rounder = Rounder(model, units)
    assert joint_errors(rounder, {"weight": W32}, {"r": reference}, "w32") == {"r": [0.0] * 4}


def test_power_is_the_mean_square_of_the_output() -> None:
    model = nn.Linear(16, 5)
    data = x(4, 16)
    reference = Reference(model, Calibration.of([data[:3], data[3:]]))
    assert reference.power == pytest.approx(model(data).double().square().mean().item(), rel=1e-6)
    assert reference.samples == 4


def test_a_unit_that_is_never_read_has_no_error() -> None:
    model = Returns(lambda out: out)
    model.spare = nn.Linear(16, 5)
    units = find_units(model)
    table = measure(model, Calibration.of(x(4, 16)), units, all_formats(units))
    assert {entry.error for entry in table.entries["spare.weight"].values()} == {0.0}
    assert table.entries["linear.weight"][W2].error > 0


def test_weights_on_the_grid_are_not_even_run(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(16, 2, bias=False)
    model.weight.data.copy_(torch.arange(32).view(2, 16) % 2)
    units = find_units(model)
    reference = Reference(model, Calibration.of(x(4, 16)))
    monkeypatch.setattr(Reference, "errors", lambda *_args: pytest.fail("was run"))
    formats = {"weight": (W32, Format(16), Format(2, 16))}
    table = measure(model, Calibration.of(x(4, 16)), units, formats, reference=reference)
    assert {(e.error, e.error_se) for e in table.entries["weight"].values()} == {(0.0, 0.0)}
    assert {e.samples for e in table.entries["weight"].values()} == {4}


class Masked(nn.Module):
    """Writes `garbage` where the mask hides a token."""

    def __init__(self, garbage: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 16)
        self.garbage = garbage

    def forward(self, *, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = attention_mask[..., None] == 0
        noise = self.embed.weight.sum() * self.garbage
        return torch.where(hidden, noise, self.embed(input_ids))


@pytest.mark.parametrize("garbage", [0.0, 1e3, torch.nan], ids=["zero", "large", "nan"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32], ids=str)
def test_hidden_positions_do_not_count(garbage: float, dtype: torch.dtype) -> None:
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
    data = {"input_ids": TOKENS, "attention_mask": mask.to(dtype)}
    model = seeded(lambda: Masked(garbage))
    (unit,) = find_units(model)
    store = Store(None)
    measure(model, Calibration.of(data), [unit], {unit.name: (W2,)}, store=store)
    weight = model.get_parameter(unit.name).detach()
    change = (round_trip(weight, W2, unit.rows, unit.columns) - weight).double()
    per_token = change[TOKENS].square().mean(2)
    expected = [per_token[i][mask[i] == 1].mean().item() for i in range(3)]
    assert store.get(unit.name, W2.name) == pytest.approx(expected, rel=1e-5)


def test_an_output_that_counts_no_samples_is_one_sample() -> None:
    model = Returns(lambda out: out.sum(0))
    units = find_units(model)
    calibration = Calibration.of([x(3, 16), x(2, 16)])
    store = Store(None)
    table = measure(model, calibration, units, all_formats(units), store=store)
    for fmt in FORMATS:  # 32 bits too, though it is not run: errors of two plans are compared
        assert table.entries["linear.weight"][fmt].samples == 2
    errors = store.get("linear.weight", "w4g16")
    assert errors is not None
    assert len(errors) == 2


def test_random_numbers_of_the_forward_are_the_same_in_every_pass() -> None:
    model = seeded(Noisy)
    units = find_units(model)
    calibration = Calibration.of([x(4, 16), x(4, 16, seed=3)])
    random_state = torch.get_rng_state()
    store = Store(None)
    measure(model, calibration, units, {"linear.weight": (W4,)}, store=store)
    assert torch.equal(torch.get_rng_state(), random_state)
    torch.rand(7)  # whatever the caller draws in between does not show
    again = Store(None)
    measure(model, calibration, units, {"linear.weight": (W4,)}, store=again)
    assert again.get("linear.weight", W4.name) == store.get("linear.weight", W4.name)
    quiet = Case(lambda: nn.Linear(16, 8), [x(4, 16), x(4, 16, seed=3)])
    unit = find_units(seeded(quiet.make))[0]
    # Adding the same noise to both rounds the difference in the last bits of float32.
    expected = naive(quiet, unit, W4)
    assert store.get("linear.weight", W4.name) == pytest.approx(expected, rel=1e-3)


class Fragile(nn.Module):
    """Infinite or NaN as soon as a weight of the first layer changes."""

    original: Tensor

    def __init__(self, bad: float) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16, bias=False)
        self.second = nn.Linear(16, 16)
        self.register_buffer("original", self.first.weight.detach().clone())
        self.bad = bad

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(self.first(x))
        return result if torch.equal(self.original, self.first.weight) else result * self.bad


@pytest.mark.parametrize("bad", [torch.nan, torch.inf], ids=["nan", "inf"])
def test_bad_outputs_name_the_layer_and_the_format(bad: float) -> None:
    model = Fragile(bad)
    units = find_units(model)
    store = Store(None)
    with pytest.raises(ModelError, match=r"with first\.weight at w4g16, .* NaN or infinite; pin"):
        measure(
            model,
            Calibration.of(x(4, 16)),
            units,
            {"first.weight": (W32, W4), "second.weight": (W8,)},
            store=store,
        )
    assert store.get("first.weight", "w32") == [0.0] * 4
    assert not torch.equal(model.first.weight, torch.zeros(16, 16))
    assert isinstance(model.first.weight, nn.Parameter)  # put back, though the call failed


def test_bad_original_names_its_first_bad_layer() -> None:
    class Log(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.log()

    first = nn.Linear(16, 4)
    nn.init.zeros_(first.weight)
    nn.init.zeros_(first.bias)
    model = nn.Sequential(first, nn.ReLU(), Log(), nn.Linear(4, 2)).train()
    with pytest.raises(ModelError, match=r"the first layer whose output is not finite is 2$"):
        Reference(model, Calibration.of(x(4, 16)))
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    outside = Returns(lambda out: out / 0)
    with pytest.raises(ModelError, match="is outside any leaf module"):
        Reference(outside, Calibration.of(x(4, 16)))


BAD_OUTPUTS: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "decisions": (lambda out: out.argmax(1), "the model's output is torch.int64"),
    "number": (lambda out: 3.0, "the model returns a float, but"),
    "nothing": (lambda out: None, "the model returns a NoneType, but"),
    "no-floats": (lambda out: {"ids": TOKENS}, "returns a dict without floating-point numbers"),
    "no-numbers": (lambda out: out[:, :0], "returns a Tensor without floating-point numbers"),
    "empty": (lambda out: (), "returns a tuple without floating-point numbers"),
    "text": (lambda out: ["a"], "returns a list without floating-point numbers"),
}


@pytest.mark.parametrize(("wrap", "message"), BAD_OUTPUTS.values(), ids=BAD_OUTPUTS)
def test_outputs_without_numbers_are_refused(
    wrap: Callable[[Tensor], object], message: str
) -> None:
    with pytest.raises(ModelError, match=message) as refusal:
        Reference(Returns(wrap), Calibration.of(x(4, 16)))
    assert "\n" not in str(refusal.value)


def test_outputs_that_change_shape_are_refused() -> None:
    model = nn.Linear(16, 5)
    model.register_forward_hook(
        lambda m, _a, out: out if isinstance(m.weight, nn.Parameter) else out[:, :2]
    )
    units = find_units(model)
    with pytest.raises(
        ModelError, match=r"with weight at w8, .* shape \(4, 2\) instead of \(4, 5"
    ):
        measure(model, Calibration.of(x(4, 16)), units, {"weight": (W8,)})


def test_misfitting_calibration_is_refused() -> None:
    with pytest.raises(CalibrationError, match="does not take the calibration batch"):
        Reference(nn.Linear(16, 5), Calibration.of(x(4, 8)))
    with pytest.raises(CalibrationError, match="0 batches"):
        Calibration.of([])


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_scripted_models_are_refused_and_scripted_parts_measured() -> None:
    scripted = torch.jit.script(nn.Linear(16, 5))
    with pytest.raises(ModelError, match="model Linear is TorchScript"):
        Reference(scripted, Calibration.of(x(4, 16)))
    first, last = seeded(lambda: nn.Linear(16, 16)), seeded(lambda: nn.Linear(16, 5))
    plain = nn.Sequential(first, nn.Tanh(), last)
    mixed = nn.Sequential(torch.jit.script(first), nn.Tanh(), last)
    tables = []
    for model in (plain, mixed):
        units = find_units(model)
        tables.append(measure(model, Calibration.of(x(4, 16)), units, all_formats(units)))
    assert tables[0].entries == tables[1].entries


def test_formats_that_do_not_fit_are_said() -> None:
    model = nn.Linear(16, 2)
    model.weight.data[0, 0] = 1e9
    units = find_units(model)
    table = measure(model, Calibration.of(x(4, 16)), units, {"weight": (W32, Format(16), W8)})
    assert list(table.entries["weight"]) == [W32]
    assert list(table.refused) == [("weight", "w16"), ("weight", "w8")]
    assert "does not fit into float16" in table.refused["weight", "w16"]
    with pytest.raises(FormatError, match="float16"):
        joint_errors(Rounder(model, {"weight": units[0]}), {"weight": W8}, {}, "a plan")


def test_measuring_twice_gives_equal_tables() -> None:
    tables: list[SensitivityTable] = []
    for _ in range(2):
        model = seeded(SelfAttention)
        units = find_units(model)
        calibration = Calibration.of(x(3, 5, 16))
        tables.append(measure(model, calibration, units, all_formats(units)))
    assert tables[0] == tables[1]


def test_progress_counts_what_the_store_already_holds() -> None:
    model = nn.Linear(16, 5)
    units = find_units(model)
    calibration = Calibration.of(x(4, 16))
    store = Store(None)
    store.put("weight", "w32", [0.0] * 4)
    calls: list[tuple[str, int, int]] = []
    measure(
        model,
        calibration,
        units,
        {"weight": (W32, W8, W4)},
        store=store,
        progress=lambda stage, done, total: calls.append((stage, done, total)),
    )
    assert calls == [(STAGE, 1, 3), (STAGE, 2, 3), (STAGE, 3, 3)]
