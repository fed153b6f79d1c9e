"""The traced graph: order, flow of data, live memory, and a model that is left as it was."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import networkx as nx
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode

from mixq.demo import load
from mixq.errors import CalibrationError, ModelError
from mixq.graph.build import build_graph
from mixq.graph.hooks import LOST
from mixq.graph.model_graph import ModelGraph


class Net(nn.Module):
    """`function(net, input)` with a few layers to choose from."""

    cache: Tensor

    def __init__(self, function: Callable[[Any, Tensor], object]) -> None:
        super().__init__()
        self.function = function
        self.one = nn.Linear(8, 8)
        self.two = nn.Linear(8, 8)
        self.register_buffer("cache", torch.zeros(4, 8), persistent=False)

    def forward(self, x: Tensor) -> object:
        return self.function(self, x)


INPUT = torch.ones(4, 8)
ROW = 4 * 8 * 4
"""Bytes of one activation (4, 8) in float32."""


def graph_of(function: Callable[[Any, Tensor], object]) -> ModelGraph:
    model = Net(function)
    return build_graph(model, lambda: model(INPUT))


def ops(graph: ModelGraph) -> list[str]:
    return [data["op"].split(".")[1] for _, data in graph.digraph.nodes(data=True)]


def edges(graph: ModelGraph) -> set[tuple[int, int]]:
    return {(int(source), int(target)) for source, target in graph.digraph.edges}


def chain(net: Net, x: Tensor) -> Tensor:
    result: Tensor = net.two(net.one(x).relu())
    return result


def residual(net: Net, x: Tensor) -> Tensor:
    hidden = net.one(x)
    result: Tensor = net.two(hidden.relu()) + hidden
    return result


def branches(net: Net, x: Tensor) -> Tensor:
    return torch.cat([net.one(x), net.two(x)], 1)


def in_place(net: Net, x: Tensor) -> Tensor:
    result: Tensor = net.two(net.one(x).relu_())
    return result


def in_place_window(net: Net, x: Tensor) -> Tensor:
    """A window of h is overwritten; whoever reads h afterwards reads that too."""
    hidden = net.one(x)
    hidden[:, :4] += 1
    result: Tensor = net.two(hidden)
    return result


def through_buffer(net: Net, x: Tensor) -> Tensor:
    net.cache[:2] = net.one(x)[:2]
    return net.cache * 2


def views(net: Net, x: Tensor) -> Tensor:
    left, right = net.one(x).view(4, 2, 4).transpose(0, 1).unbind(0)
    result: Tensor = left + right
    return result


def shape_only(net: Net, x: Tensor) -> Tensor:
    return net.one(torch.zeros_like(net.two(x)) + x)  # type: ignore[no-any-return]


def constants(net: Net, x: Tensor) -> Tensor:
    return x * torch.tensor(3.0) + torch.arange(8)


# id: function, operators in their order, edges, peak in activations of (4, 8)
FLOWS: dict[str, tuple[Callable[[Any, Tensor], object], str, set[tuple[int, int]], float]] = {
    # While the second layer runs: relu's output and its own; x is gone.
    "chain": (chain, "addmm relu addmm", {(0, 1), (1, 2)}, 2),
    # While `two` runs: hidden, relu's output and its own.
    "residual": (residual, "addmm relu addmm add", {(0, 1), (0, 3), (1, 2), (2, 3)}, 3),
    # While cat runs: both branches and its output of twice the size; x was read before.
    "branches": (branches, "addmm addmm cat", {(0, 2), (1, 2)}, 4),
    "in-place": (in_place, "addmm relu_ addmm", {(0, 1), (1, 2)}, 2),
    "in-place-window": (in_place_window, "addmm add_ copy_ addmm", {(0, 1), (1, 2), (2, 3)}, 2),
    "through-buffer": (through_buffer, "addmm copy_ mul", {(0, 1), (1, 2)}, 2),
    "views": (views, "addmm add", {(0, 1)}, 2),
    "shape-only": (shape_only, "addmm add addmm", {(1, 2)}, 2),
    "constants": (constants, "mul add", {(0, 1)}, 2),
    "tuple": (lambda net, x: (net.one(x), net.two(x)), "addmm addmm", set(), 3),
    "dict": (lambda net, x: {"a": {"b": net.one(x)}}, "addmm", set(), 2),
    # Outputs live to the end: both, and the third's input and output.
    "kept": (
        lambda net, x: (net.one(x), net.two(x), (x + 1) + 1),
        "addmm addmm add add",
        {(2, 3)},
        4,
    ),
}


@pytest.mark.parametrize(("function", "names", "flow", "peak"), FLOWS.values(), ids=FLOWS)
def test_flow(
    function: Callable[[Any, Tensor], object],
    names: str,
    flow: set[tuple[int, int]],
    peak: float,
) -> None:
    graph = graph_of(function)
    assert " ".join(ops(graph)) == names
    assert edges(graph) == flow
    assert graph.peak_activation_bytes == peak * ROW
    assert graph.source == "dispatch"


def test_late_input_is_live_from_the_start() -> None:
    """A mask that is read at the end lies in memory all the time."""
    model = Net(lambda net, inputs: branches(net, inputs[0])[:, :8].relu() * inputs[1])
    mask = torch.ones(4, 8)
    graph = build_graph(model, lambda: model((INPUT, mask)))
    assert graph.peak_activation_bytes == (4 + 1) * ROW


def test_expanded_input_costs_what_it_holds() -> None:
    model = Net(lambda net, x: net.one(x))
    expanded = torch.ones(1, 8).expand(4, 8)
    graph = build_graph(model, lambda: model(expanded))
    assert graph.peak_activation_bytes == ROW // 4 + ROW


def test_demo_graph() -> None:
    model, calibration, _ = load()
    batch = calibration.take(1).batches[0]
    assert isinstance(batch, Tensor)
    graph = build_graph(model, lambda: model(batch))
    assert nx.is_directed_acyclic_graph(graph.digraph)
    order = list(graph.digraph.nodes)
    assert order == sorted(order)
    assert all(source < target for source, target in graph.digraph.edges)
    assert graph.lost == ()
    assert graph.parameters == sum(p.numel() for p in model.parameters())
    state = model.state_dict().values()
    assert graph.original_bytes == sum(t.numel() * t.element_size() for t in state)
    units = graph.units.values()
    assert graph.other_bytes == graph.original_bytes - sum(4 * u.weights for u in units)
    # Every operation but the first is reached from the first: nothing falls out of the graph.
    reached = nx.descendants(graph.digraph, order[0])
    loose = {graph.digraph.nodes[node]["op"] for node in set(order[1:]) - reached}
    assert loose == set()
    modules = {data["module"] for _, data in graph.digraph.nodes(data=True)}
    assert {"", "stem", "attention", "mlp_up"} <= modules
    shapes = {data["op"]: data["shape"] for _, data in graph.digraph.nodes(data=True)}
    assert shapes["aten.addmm.default"] == (1, 10)
    # The largest moment is a 3x3 convolution on 32 channels: input and output of (32, 8, 8), and
    # on the way to them batch norm and relu have the same size; the 64 channels after them
    # make it 32 + 64 and 64 + 64 planes of 64 pixels.
    assert graph.peak_activation_bytes >= (64 + 64) * 64 * 4


def test_reading_twice_is_two_works() -> None:
    (unit, other) = graph_of(lambda net, x: net.one(net.one(x))).units.values()
    assert len(unit.work) == 2
    assert other.work == ()


def test_unreached_units_are_said() -> None:
    graph = graph_of(lambda net, x: net.one(x))
    assert graph.lost == ("the traced batch never reaches 1 of 2 units: two.weight",)
    assert graph.units["two.weight"].macs == 0


def test_many_unreached_units_are_shortened() -> None:
    model = nn.ModuleList(nn.Linear(2, 2) for _ in range(5))
    graph = build_graph(model, lambda: model[4](torch.ones(1, 2)))
    assert graph.lost == (
        "the traced batch never reaches 4 of 5 units: 0.weight, 1.weight, 2.weight, ...",
    )


def test_overlapping_parameters_are_counted_once_and_stored_in_full() -> None:
    model = Net(lambda net, x: net.one(x))
    base = torch.randn(8, 8)
    model.first = nn.Parameter(base)
    model.second = nn.Parameter(base.t())
    graph = build_graph(model, lambda: model(INPUT))
    assert graph.parameters == 2 * 72 + 64
    assert graph.original_bytes == 4 * graph.parameters
    assert graph.other_bytes == 4 * (8 + 8 + 64 + 64)  # an artifact has no windows


def test_halves_are_counted_as_stored_and_as_32_bits() -> None:
    model = nn.Linear(8, 4).to(torch.bfloat16)
    graph = build_graph(model, lambda: model(torch.ones(2, 8, dtype=torch.bfloat16)))
    assert (graph.original_bytes, graph.other_bytes) == (36 * 4, 4 * 2)


class Fussy(nn.Module):
    """A norm, dropout, attention and random numbers: everything that a run could disturb."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8)
        self.attention = nn.MultiheadAttention(8, 2)
        self.dropout = nn.Dropout(0.5)
        self.frozen = nn.Dropout(0.5).eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(self.norm(x)) + torch.rand_like(x)
        result: Tensor = self.frozen(self.attention(x, x, x)[0])
        return result


def hooks_of(model: nn.Module) -> list[object]:
    kinds = (
        *("_forward_hooks", "_forward_hooks_always_called", "_forward_hooks_with_kwargs"),
        *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
    )
    return [dict(getattr(module, kind)) for module in model.modules() for kind in kinds]


@pytest.mark.parametrize("fails", [False, True], ids=["runs", "fails"])
@pytest.mark.parametrize("fastpath", [True, False], ids=["fast", "slow"])
def test_the_model_is_left_as_it_was(
    fails: bool, fastpath: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mha, "_is_fastpath_enabled", fastpath)
    model = Fussy().train()
    model.frozen.eval()
    model.dropout.register_forward_hook(lambda _m, _a, _o: None)
    modes = [module.training for module in model.modules()]
    hooks = hooks_of(model)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state = torch.get_rng_state()

    def run() -> object:
        output = model(torch.ones(4, 8))
        if fails:
            raise CalibrationError("no such input")
        return output

    if fails:
        with pytest.raises(CalibrationError, match="no such input"):
            build_graph(model, run)
    else:
        assert build_graph(model, run).source == "dispatch"
    assert [module.training for module in model.modules()] == modes
    assert hooks_of(model) == hooks
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.backends.mha.get_fastpath_enabled() == fastpath
    assert torch.is_grad_enabled()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_the_output_of_the_run_is_the_model_s() -> None:
    """The root's hook must not replace what the model returns."""
    outputs: list[object] = []
    model = Net(chain)
    build_graph(model, lambda: outputs.append(model(INPUT)))
    (output,) = outputs
    assert isinstance(output, Tensor)
    assert torch.equal(output, model(INPUT))


@pytest.mark.parametrize("error", [RuntimeError, AssertionError, KeyError, NotImplementedError])
def test_falls_back_on_hooks(error: type[Exception]) -> None:
    """As with compiled code that does not run under a dispatch mode."""

    def function(net: Net, x: Tensor) -> Tensor:
        if _get_current_dispatch_mode() is not None:
            raise error("not under a mode\nsecond line")
        return chain(net, x)

    graph = graph_of(function)
    assert graph.source == "hooks"
    assert graph.lost[1:] == LOST
    assert "not under a mode" in graph.lost[0]
    assert all("\n" not in line for line in graph.lost)
    assert {name: unit.macs for name, unit in graph.units.items()} == {
        "one.weight": 4 * 64,
        "two.weight": 4 * 64,
    }
    assert edges(graph) == {(0, 1)}
    assert graph.peak_activation_bytes == 2 * ROW


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_interrupts_are_not_taken_for_failed_traces(error: type[BaseException]) -> None:
    def function(net: Net, x: Tensor) -> object:
        raise error

    with pytest.raises(error):
        graph_of(function)


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner: nn.Module = torch.jit.script(nn.Sequential(nn.Linear(8, 6), nn.ReLU()))
        self.outer = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.outer(self.inner(x))
        return result


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_scripted_submodules_are_seen() -> None:
    model = Scripted()
    graph = build_graph(model, lambda: model(INPUT))
    assert (graph.source, graph.lost) == ("dispatch", ())
    assert {name: unit.macs for name, unit in graph.units.items()} == {
        "inner.0.weight": 4 * 48,
        "outer.weight": 4 * 24,
    }


def test_compiled_models_are_seen() -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU())
    compiled = torch.compile(model, backend="eager")
    graph = build_graph(compiled, lambda: compiled(INPUT))  # type: ignore[arg-type]
    assert {name: unit.macs for name, unit in graph.units.items()} == {
        "_orig_mod.0.weight": 4 * 48
    }


def test_bad_models_are_refused_before_they_run() -> None:
    model = nn.Linear(8, 8)
    model.weight.data[0, 0] = torch.nan
    with pytest.raises(ModelError, match="weight has 1 NaN"):
        build_graph(model, lambda: pytest.fail("was run"))


def test_the_fallback_sees_every_layer_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """MACs of the fallback equal those of the full trace, layer by layer."""

    class Everything(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(9, 16)
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
            self.conv = nn.Conv1d(16, 16, 3, groups=4)
            self.transposed = nn.ConvTranspose1d(16, 8, 3, stride=2, groups=2)
            self.lstm = nn.LSTM(8, 4, batch_first=True, bidirectional=True)
            self.linear = nn.Linear(8, 3)

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.embedding(tokens)
            x = self.attention(x, x, x)[0]
            x = self.transposed(self.conv(x.transpose(1, 2))).transpose(1, 2)
            result: Tensor = self.linear(self.lstm(x)[0])
            return result

    model = Everything()
    tokens = torch.arange(12).view(2, 6) % 9
    full = build_graph(model, lambda: model(tokens))

    def broken(*_args: object, **_kwargs: object) -> object:
        raise RuntimeError("broken")

    monkeypatch.setattr(TorchDispatchMode, "__enter__", broken)
    fallback = build_graph(model, lambda: model(tokens))
    assert (full.source, fallback.source) == ("dispatch", "hooks")
    assert fallback.lost == ("torch's dispatch could not be traced (broken)", *LOST)
    kinds = {"recurrent": "gemm"}
    for name, unit in full.units.items():
        found = fallback.units[name]
        assert found.macs == unit.macs, name
        assert {w.kind for w in found.work} == {kinds.get(w.kind, w.kind) for w in unit.work}
        assert sum(w.m * w.repeats for w in found.work) == sum(w.m * w.repeats for w in unit.work)
    order = list(fallback.digraph.nodes)
    assert edges(fallback) == {(int(a), int(b)) for a, b in itertools.pairwise(order)}
