"""apply: a copy that computes with exactly the weights that were measured."""

from __future__ import annotations

import copy
import gc
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrizations, parametrize

import mixq.demo
from mixq.errors import PlanError
from mixq.formats import Format
from mixq.graph.find import find_units
from mixq.graph.state import fingerprint, stored_tensors
from mixq.packed_module import weights_kept
from mixq.plan import Plan
from mixq.quantize.weights import round_trip

from .plans import plan_for

pytestmark = [
    # torch.export's own, when a GraphModule is copied.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    # An LSTM with projections has no fast kernel, and says so once.
    pytest.mark.filterwarnings("ignore:.*LSTM with projections:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning"),
]

MIX = (Format(4, 16), Format(8), Format(2, 16, "zero-point"), Format(16), Format(32))


def dequantized_weights(model: nn.Module, plan: Plan) -> dict[str, Tensor]:
    """The weights that the plan stands for, by unit."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {
        unit.name: round_trip(
            parameters[unit.name], plan.layers[unit.name].format, unit.rows, unit.columns
        )
        for unit in find_units(model)
        if plan.layers[unit.name].bits != 32
    }


def measured_output(model: nn.Module, plan: Plan, data: Tensor) -> Tensor:
    """What the model computes with those weights put in for one call."""
    weights = dequantized_weights(model, plan)
    replaced, places = {}, set()
    for unit in find_units(model):
        for name in (unit.name, *unit.aliases) if unit.name in weights else ():
            path, _, leaf = name.rpartition(".")
            # functional_call, given two names of one place, never puts the old weight back
            # (torch 2.13), and neither does it if it looks for ties itself.
            place = (model.get_submodule(path), leaf)
            if place not in places:
                places.add(place)
                replaced[name] = weights[unit.name]
    output: Tensor = functional_call(model, replaced, (data,), tie_weights=False)
    return output


class Twice(nn.Module):
    """One module at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.second = nn.Linear(20, 20)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x).relu())
        return y


class Tied(nn.Module):
    """An embedding whose table is the head's weight, and a parameter at the root."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.randn(5, 20))
        self.embedding = nn.Embedding(30, 20)
        self.body = nn.Linear(20, 20)
        self.head = nn.Linear(20, 30, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        y: Tensor = self.head(self.body(self.embedding(tokens) + self.shift))
        return y


class Lists(nn.Module):
    """Raw parameters, in a list, in a dictionary, and stacked."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.ParameterList([torch.randn(20, 20), torch.randn(20, 20)])
        self.named = nn.ParameterDict({"a b": torch.randn(20, 20)})
        self.experts = nn.Parameter(torch.randn(2, 20, 20))

    def forward(self, x: Tensor) -> Tensor:
        for matrix in (*self.items, self.named["a b"], *self.experts):
            x = torch.tanh(x @ matrix)
        return x


class Recurrent(nn.Module):
    def __init__(self, kind: Callable[..., nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.rnn = kind(20, 16, **options)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.rnn(x)[0]
        return y


class Attention(nn.Module):
    def __init__(self, *, weights: bool, **options: Any) -> None:
        super().__init__()
        self.weights = weights
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        width = self.attention.kdim
        keys = x if width == 16 else x.repeat(1, 1, 2)[..., :width]
        y: Tensor = self.attention(x, keys, keys, need_weights=self.weights)[0]
        return y


def old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.Sequential(nn.utils.weight_norm(nn.Linear(20, 20)), nn.ReLU())


def exported() -> nn.Module:
    program = torch.export.export(Tied().eval(), (torch.zeros(2, 5, dtype=torch.long),))
    return program.module()


def tokens() -> Tensor:
    return torch.randint(0, 30, (2, 5))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.BatchNorm2d(8),
        nn.ConvTranspose2d(8, 6, 3, groups=2, stride=2),
        nn.Conv2d(6, 4, (1, 3), bias=False),
    )


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "linear": (lambda: nn.Linear(33, 7), lambda: torch.randn(4, 33)),
    "conv1d": (lambda: nn.Conv1d(3, 8, 5), lambda: torch.randn(2, 3, 20)),
    "conv2d, depthwise, transposed": (convolutions, lambda: torch.randn(2, 3, 12, 12)),
    "embedding": (lambda: nn.Embedding(30, 20, padding_idx=0), tokens),
    "bilinear": (lambda: Sum(nn.Bilinear(20, 20, 6)), lambda: torch.randn(4, 20)),
    "lstm": (lambda: Recurrent(nn.LSTM), lambda: torch.randn(6, 2, 20)),
    "lstm, deep, both ways, batch first": (
        lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True, batch_first=True),
        lambda: torch.randn(2, 6, 20),
    ),
    "lstm, projected": (
        lambda: Recurrent(nn.LSTM, proj_size=8, bias=False),
        lambda: torch.randn(6, 2, 20),
    ),
    "gru, both ways": (
        lambda: Recurrent(nn.GRU, num_layers=2, bidirectional=True),
        lambda: torch.randn(6, 2, 20),
    ),
    "rnn": (lambda: Recurrent(nn.RNN), lambda: torch.randn(6, 2, 20)),
    "attention, fast path": (lambda: Attention(weights=False), lambda: torch.randn(2, 5, 16)),
    "attention, with weights": (lambda: Attention(weights=True), lambda: torch.randn(2, 5, 16)),
    "attention, three projections": (
        lambda: Attention(weights=False, kdim=24, vdim=24),
        lambda: torch.randn(2, 5, 16),
    ),
    "transformer layer": (
        lambda: nn.TransformerEncoderLayer(16, 2, 32, batch_first=True),
        lambda: torch.randn(2, 5, 16),
    ),
    "transformer": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0), 2
        ),
        lambda: torch.randn(2, 5, 16),
    ),
    "parameter lists": (Lists, lambda: torch.randn(4, 20)),
    "weight norm": (
        lambda: parametrizations.weight_norm(nn.Linear(20, 20)),
        lambda: torch.randn(4, 20),
    ),
    "orthogonal": (
        lambda: parametrizations.spectral_norm(nn.Linear(20, 20)),
        lambda: torch.randn(4, 20),
    ),
    "old weight norm": (old_weight_norm, lambda: torch.randn(4, 20)),
    "tied": (Tied, tokens),
    "used twice": (Twice, lambda: torch.randn(4, 20)),
    "exported": (exported, tokens),
    "bfloat16": (
        lambda: nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 4)).bfloat16(),
        lambda: torch.randn(4, 20).bfloat16(),
    ),
    "float64": (lambda: nn.Linear(20, 20).double(), lambda: torch.randn(4, 20).double()),
}


class Sum(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x, x)
        return y


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    """A model in evaluation mode, and its input."""
    torch.manual_seed(0)
    make, data = CASES[request.param]
    model = make()
    for module in model.modules():  # .eval() is refused by exported programs
        module.training = False
    return model, data()


@pytest.fixture
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def snapshot(model: nn.Module) -> dict[str, object]:
    """Everything that applying a plan must leave alone."""
    return {
        "classes": [type(module) for module in model.modules()],
        "modes": [module.training for module in model.modules()],
        "keys": [sorted(module.__dict__) for module in model.modules()],
        "objects": [id(p) for p in model.parameters()],
        "addresses": [(name, t.data_ptr()) for name, t in model.state_dict().items()],
        "fingerprint": fingerprint(model),
    }


@pytest.mark.usefixtures("no_grad")
@pytest.mark.parametrize("formats", [MIX, MIX[::-1], MIX[1:2]], ids=["mix", "mix turned", "w8"])
def test_outputs_are_those_that_were_measured(
    case: tuple[nn.Module, Tensor], formats: tuple[Format, ...]
) -> None:
    model, data = case
    before = snapshot(model)
    plan = plan_for(model, *formats)
    expected = measured_output(model, plan, data)
    applied = plan.apply(model)
    assert torch.equal(applied(data), expected)
    assert torch.equal(applied(data), expected)  # nothing is used up
    assert snapshot(model) == before


@pytest.mark.usefixtures("no_grad")
def test_a_copy_of_an_applied_model_is_one(case: tuple[nn.Module, Tensor]) -> None:
    model, data = case
    applied = plan_for(model, *MIX).apply(model)
    copied = copy.deepcopy(applied)
    assert torch.equal(copied(data), applied(data))
    assert torch.equal(copy.deepcopy(copied)(data), applied(data))
    theirs = {item.tensor.data_ptr() for item in stored_tensors(applied) if item.tensor.numel()}
    assert theirs.isdisjoint(item.tensor.data_ptr() for item in stored_tensors(copied))


def test_stored_bytes_are_those_of_the_plan(case: tuple[nn.Module, Tensor]) -> None:
    model, _ = case
    plan = plan_for(model, *MIX)
    units = {unit.name: unit for unit in find_units(model)}
    other = sum(item.stored_bytes for item in stored_tensors(model) if item.names[0] not in units)
    stored = sum(item.stored_bytes for item in stored_tensors(plan.apply(model)))
    assert stored == other + sum(layer.weight_bytes for layer in plan.layers.values())


def test_no_old_weights_stay_alive(case: tuple[nn.Module, Tensor]) -> None:
    model, data = case
    applied = plan_for(model, Format(4)).apply(model)
    with torch.no_grad():
        applied(data)
    known = {id(item.tensor) for item in stored_tensors(model)}
    known |= {id(item.tensor) for item in stored_tensors(applied)}
    shapes = {unit.shape for unit in find_units(model)}
    gc.collect()
    # Reachable from the copy: any float tensor of a unit's shape that neither model stores.
    stale = [
        value
        for value in reachable(applied)
        if value.is_floating_point() and tuple(value.shape) in shapes and id(value) not in known
    ]
    computed = [m.__dict__.get("weight") for m in applied.modules()]  # of old weight norm
    assert [value for value in stale if all(value is not c for c in computed)] == []
    originals = {item.tensor.data_ptr() for item in stored_tensors(model)}
    assert not any(value.data_ptr() in originals for value in reachable(applied) if value.numel())


def reachable(model: nn.Module) -> list[Tensor]:
    """Every tensor that the model's modules hold in any attribute, list or dictionary."""
    found: list[Tensor] = []

    def look(value: object) -> None:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, dict):
            for inner in value.values():
                look(inner)
        elif isinstance(value, list | tuple):
            for inner in value:
                look(inner)

    for module in model.modules():
        look(module.__dict__)
    return found


@pytest.mark.parametrize(
    ("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)], ids=["LSTM", "GRU", "RNN"]
)
def test_a_recurrent_layer_frees_its_old_weights(
    kind: Callable[..., nn.RNNBase], gates: int
) -> None:
    shape = (16 * gates, 37)  # 37: nobody else's
    model: nn.Module | None = kind(37, 16)
    assert model is not None
    applied = plan_for(model, Format(4)).apply(model)
    applied(torch.zeros(3, 1, 37))
    model = None
    gc.collect()
    # Not isinstance: it asks objects for their class, and some of torch warn when asked.
    alive = [
        o for o in gc.get_objects() if issubclass(type(o), Tensor) and tuple(o.shape) == shape
    ]
    assert [tensor.dtype for tensor in alive if tensor.is_floating_point()] == []


def test_state_dict_has_packed_buffers() -> None:
    model = nn.Sequential(nn.Linear(32, 8), nn.Linear(8, 40, bias=False), nn.Linear(40, 8))
    plan = plan_for(model, Format(4, 16, "zero-point"), Format(16), Format(8))
    state = {n: (tuple(t.shape), t.dtype) for n, t in plan.apply(model).state_dict().items()}
    assert state == {
        "0.bias": ((8,), torch.float32),
        "0.weight__codes": ((128,), torch.uint8),
        "0.weight__scales": ((8, 2), torch.float16),
        "0.weight__zeros": ((8,), torch.uint8),
        "1.weight__half": ((40, 8), torch.float16),
        "2.bias": ((8,), torch.float32),
        "2.weight__codes": ((320,), torch.uint8),
        "2.weight__scales": ((8, 1), torch.float16),
    }


def test_state_dict_goes_into_another_copy() -> None:
    torch.manual_seed(0)
    one, two = Tied().eval(), Tied().eval()
    first = plan_for(one, Format(4)).apply(one)
    second = plan_for(two, Format(4)).apply(two)
    second.load_state_dict(first.state_dict())
    data = tokens()
    assert torch.equal(second(data), first(data))


def ties(model: nn.Module) -> list[tuple[str, ...]]:
    return [item.names for item in stored_tensors(model) if len(item.names) > 1]


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model,
        copy.deepcopy,
        lambda model: model._apply(torch.clone),  # as a move to another device does
        lambda model: model.to(torch.float64),
        lambda model: model.half(),
        lambda model: model.to_empty(device="cpu"),
    ],
    ids=["applied", "copied", "moved", "float64", "half", "emptied"],
)
def test_tied_weights_stay_one_storage(change: Callable[[nn.Module], nn.Module]) -> None:
    model = Tied()
    applied = plan_for(model, Format(32), Format(4, 16, "zero-point")).apply(model)
    assert ties(change(applied)) == [
        (f"embedding.weight__{part}", f"head.weight__{part}")
        for part in ("codes", "scales", "zeros")
    ]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["linear", "tied", "lstm", "parameter lists"])
def test_another_dtype_changes_what_weights_become_and_not_what_is_stored(
    name: str, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    make, make_data = CASES[name]
    model, data = make().eval(), make_data()
    plan = plan_for(model, Format(4, 16), Format(8), Format(16))
    applied = plan.apply(model)
    packed = {n: t.clone() for n, t in applied.state_dict().items() if "__" in n}
    weights = dequantized_weights(model, plan)
    applied.to(dtype)
    for key, tensor in packed.items():
        now = applied.state_dict()[key]
        assert now.dtype == tensor.dtype
        assert torch.equal(now, tensor)
    for key, weight in weights.items():
        path, _, leaf = key.rpartition(".")
        assert torch.equal(getattr(applied.get_submodule(path), leaf), weight.to(dtype))
    with torch.no_grad():
        output = applied(data.to(dtype) if data.is_floating_point() else data)
    assert output.dtype == dtype


def test_modules_are_still_what_they_were() -> None:
    model = Recurrent(nn.LSTM).eval()
    applied = plan_for(model, Format(4)).apply(model)
    rnn = applied.get_submodule("rnn")
    assert isinstance(rnn, nn.LSTM)
    assert repr(rnn) == "PackedLSTM(20, 16)"
    again = plan_for(model, Format(8)).apply(model)
    assert type(again.get_submodule("rnn")) is type(rnn)  # one class, not one per model


def test_classes_of_a_forgotten_model_are_forgotten() -> None:
    model: nn.Module | None = parametrizations.weight_norm(nn.Linear(20, 20))
    assert model is not None
    applied: nn.Module | None = plan_for(model, Format(4)).apply(model)
    assert applied is not None
    gc.collect()
    names = [type(module).__name__ for module in applied.modules()]
    assert "PackedParametrizationList" in names
    before = len(nn.Linear.__subclasses__())
    model = applied = None
    gc.collect()
    assert len(nn.Linear.__subclasses__()) < before


def test_a_packed_weight_cannot_be_assigned() -> None:
    model = nn.Linear(20, 20)
    applied = plan_for(model, Format(4)).apply(model)
    with pytest.raises((AttributeError, KeyError)):
        applied.weight = nn.Parameter(torch.zeros(20, 20))
    with pytest.raises(AttributeError):
        applied.weight = torch.zeros(20, 20)


def test_the_mode_is_kept() -> None:
    model = nn.Sequential(nn.Linear(20, 20), nn.Dropout()).train()
    model[1].eval()
    applied = plan_for(model, Format(4)).apply(model)
    assert [module.training for module in applied.modules()] == [True, True, False]


def test_all_at_32_bits_is_a_plain_copy() -> None:
    model, data = nn.Linear(20, 20), torch.randn(3, 20)
    applied = plan_for(model, Format(32)).apply(model)
    assert type(applied) is nn.Linear
    assert torch.equal(applied(data), model(data))
    assert applied.weight is not model.weight


def test_the_demo_computes_what_was_measured() -> None:
    model, calibration, _ = mixq.demo.load()
    plan = plan_for(model, *MIX)
    batch = calibration.batches[0]
    assert isinstance(batch, Tensor)
    with torch.no_grad():
        expected = measured_output(model, plan, batch)
        assert torch.equal(plan.apply(model)(batch), expected)


def test_a_parametrization_can_be_cached() -> None:
    model = parametrizations.weight_norm(nn.Linear(20, 20)).eval()
    applied = plan_for(model, Format(4)).apply(model)
    data = torch.randn(3, 20)
    with torch.no_grad(), parametrize.cached():
        assert torch.equal(applied(data), applied(data))


def refusal(plan: Plan, model: nn.Module) -> str:
    before = snapshot(model)
    with pytest.raises(PlanError) as refused:
        plan.apply(model)
    message = str(refused.value)
    assert message.isprintable()
    assert len(message) < 700
    assert snapshot(model) == before
    return message


def test_another_models_plan_is_refused() -> None:
    torch.manual_seed(0)
    one, two = nn.Linear(20, 20), nn.Linear(20, 20)
    assert "search again" in refusal(plan_for(one, Format(4)), two)
    with torch.no_grad():
        one.bias[0] += 1
    assert "search again" in refusal(plan_for(two, Format(4)), one)


def test_an_applied_model_is_refused() -> None:
    model = nn.Linear(20, 20)
    plan = plan_for(model, Format(4))
    assert "already" in refusal(plan, plan.apply(model))


HOSTILE_NAMES = ["missing", "", "a.b.c", "\x1b[2J\nx\u202e", "n" * 10**6, "bias", "weight.x", "."]


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=lambda name: ascii(name)[:12])
def test_unknown_layers_are_refused_in_one_line(name: str) -> None:
    model = nn.BatchNorm1d(20) if name == "bias" else nn.Linear(20, 20)
    plan = plan_for(nn.Linear(20, 20), Format(4))
    info = plan.model.model_copy(update={"fingerprint": fingerprint(model)})
    layers = {name: plan.layers["weight"]}
    assert "layer" in refusal(plan.model_copy(update={"model": info, "layers": layers}), model)


def test_a_buffer_is_no_layer() -> None:
    model = nn.Linear(20, 20)
    model.register_buffer("table", torch.randn(20, 20))
    plan = plan_for(model, Format(4))
    edited = plan.model_copy(update={"layers": {"table": plan.layers["weight"]}})
    assert "that the model lacks" in refusal(edited, model)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [20, 21]},
        {"shape": []},
        {"shape": [400]},
        {"shape": [10**4000] * 500},
        {"matrix": (20, 21)},
        {"matrix": (0, 0)},
        {"matrix": (1 << 62, 1 << 62)},
    ],
    ids=lambda change: repr(change)[:30],
)
def test_other_shapes_are_refused(change: dict[str, Any]) -> None:
    model = nn.Linear(20, 20)
    plan = plan_for(model, Format(4))
    layer = plan.layers["weight"].model_copy(update=change)
    assert "shape" in refusal(plan.model_copy(update={"layers": {"weight": layer}}), model)


def test_a_hostile_fingerprint_is_shown_in_one_line() -> None:
    model = nn.Linear(20, 20)
    plan = plan_for(model, Format(4))
    info = plan.model.model_copy(update={"name": "\x1b[2J\n" * 10**5, "fingerprint": "\n" * 10**6})
    assert "search again" in refusal(plan.model_copy(update={"model": info}), model)


@pytest.mark.parametrize("fmt", [Format(16), Format(8), Format(4, 16, "zero-point")], ids=str)
def test_weights_that_do_not_fit_are_refused(fmt: Format) -> None:
    model = nn.Linear(20, 20)
    with torch.no_grad():
        model.weight[3, 4] = 1e9
    assert "layer 'weight' cannot be stored as planned" in refusal(plan_for(model, fmt), model)


def test_weights_may_be_kept_for_a_while() -> None:
    model = tied_model()
    plan = plan_for(model, Format.parse("w4g32-zp"))
    quantized = plan.apply(model)
    inputs = torch.arange(8)[None]
    with torch.no_grad():
        expected = quantized(inputs)
        with weights_kept(quantized):
            head, embedding = quantized[1].weight, quantized[0].weight
            assert head is embedding is quantized[1].weight
            assert torch.equal(quantized(inputs), expected)
    assert quantized[1].weight is not head
    assert not any("_mixq_kept" in module.__dict__ for module in quantized.modules())


def tied_model() -> nn.Sequential:
    model = nn.Sequential(nn.Embedding(64, 32), nn.Linear(32, 64, bias=False))
    model[1].weight = model[0].weight
    return model.eval()
