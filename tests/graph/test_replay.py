"""Tapes and replays: from a changed weight to the output, with the bits of the whole model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from mixq.errors import ModelError
from mixq.graph.replay import Replay
from mixq.graph.tape import DivergedError, Recorder, Step, Tape, run_step

WIDTH = 8


def x(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape or (3, WIDTH), generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    """Three linear layers, and what `join` makes of them."""

    def __init__(self, join: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.constant = torch.arange(WIDTH).float()  # no buffer, so nobody knows its name
        self.register_buffer("counter", torch.zeros(WIDTH))
        self.join = join

    def forward(self, x: Tensor) -> Any:
        return self.join(self, x)


def in_place(net: Any, x: Tensor) -> Any:
    hidden = net.a(x)
    half = hidden[:, :4]
    hidden.relu_()
    half.mul_(2)  # seen through `hidden`
    return net.b(hidden).add_(net.c(hidden))


def in_place_before(net: Any, x: Tensor) -> Any:
    """What lies before `b` is changed after `b` has read it, in a view."""
    hidden = net.a(x)
    first = net.b(hidden)
    hidden[:, ::2].sigmoid_()
    return first + net.c(hidden)


def branches(net: Any, x: Tensor) -> Any:
    left, right = net.a(x), net.b(x)
    return torch.cat([left, net.c(right).tanh()], 1)


def loop(net: Any, x: Tensor) -> Any:
    for _ in range(4):
        x = net.b(net.a(x).tanh())
    return net.c(x)


def lists(net: Any, x: Tensor) -> Any:
    parts = torch.split(net.a(x), 2, dim=1)
    stacked = torch.stack([net.b(x).split(2, dim=1)[0], *parts])
    values, indices = stacked.max(0)
    return net.c(torch.cat([values, indices.float()] * 2, 1))


def chunked_in_place(net: Any, x: Tensor) -> Any:
    gates = net.a(x).unsafe_chunk(2, 1)
    gates[0].sigmoid_()
    return net.c(torch.cat([gates[0] * gates[1], gates[0]], 1)) + net.b(x)


JOINS: dict[str, Callable[[Any, Tensor], Any]] = {
    "chain": lambda net, x: net.c(net.b(net.a(x).relu()).relu()),
    "in-place": in_place,
    "in-place-before": in_place_before,
    "branches": branches,
    "loop": loop,
    "lists": lists,
    "chunks": chunked_in_place,
    "constant": lambda net, x: net.c(net.b(net.a(x) * net.constant)),
    "views": lambda net, x: net.c(net.b(net.a(x).t().contiguous().t()).view(-1, 2, 4).flatten(1)),
}
WEIGHTS = tuple(f"{layer}.{kind}" for layer in "abc" for kind in ("weight", "bias"))


def taped(net: nn.Module, *inputs: Tensor) -> Tape:
    recorder = Recorder(net, inputs)
    with torch.no_grad(), recorder:
        output = net(*inputs)
    return recorder.finish(output)


def changes(net: nn.Module, name: str, count: int) -> list[Tensor]:
    weight = net.get_parameter(name).detach()
    return [weight + 0.1 * x(*weight.shape, seed=seed) for seed in range(count)]


def whole(net: nn.Module, name: str, tensor: Tensor, *inputs: Tensor) -> Tensor:
    with torch.no_grad():
        output: Tensor = functional_call(net, {name: tensor.requires_grad_()}, inputs)
        return output


@pytest.mark.parametrize("join", JOINS.values(), ids=JOINS)
def test_what_follows_a_change_has_the_bits_of_the_whole(join: Callable[..., Any]) -> None:
    net = Net(join).eval()
    tape = taped(net, x())
    assert tape.is_certain == (join is not JOINS["constant"])
    replay = Replay(tape)
    values = {name: tape.names[name] for name in WEIGHTS}
    for name in sorted(WEIGHTS, key=lambda n: tape.first_use(frozenset({values[n]}))):
        replay.advance(tape.first_use(frozenset({values[name]})))
        for changed in changes(net, name, 3):  # one after the other: none sees the one before
            with torch.no_grad():
                output = replay.outputs({values[name]: changed})
            assert output is not None
            assert torch.equal(output[0], whole(net, name, changed, x()))
    with torch.no_grad():
        replay.advance(len(tape.steps))
        assert torch.equal(replay._values[tape.outputs[0]], net(x()))


def test_several_tensors_may_change_at_once() -> None:
    net = Net(JOINS["chain"]).eval()
    replay = Replay(taped(net, x()))
    names = ("a.weight", "b.bias", "c.weight")
    tensors = {name: changes(net, name, 1)[0] for name in names}
    with torch.no_grad():
        output = replay.outputs({replay.tape.names[n]: tensor for n, tensor in tensors.items()})
        expected = functional_call(net, tensors, (x(),))
    assert output is not None
    assert torch.equal(output[0], expected)


def test_several_outputs_come_together() -> None:
    """Some depend on a change and some do not; one is read by a later step, one is a view."""

    def many(net: Any, x: Tensor) -> Any:
        first = net.a(x)
        second = net.b(x.tanh())
        return first, second, net.c(first).relu(), second[:, :2], x

    net = Net(many).eval()
    given = x()
    recorder = Recorder(net, (given,))
    with torch.no_grad(), recorder:
        outputs = net(given)
    tape = recorder.finish(*outputs)
    replay = Replay(tape)
    values = {name: tape.names[name] for name in WEIGHTS}
    for name in sorted(WEIGHTS, key=lambda n: tape.first_use(frozenset({values[n]}))):
        replay.advance(tape.first_use(frozenset({values[name]})))
        for changed in changes(net, name, 2):
            with torch.no_grad():
                found = replay.outputs({values[name]: changed})
                expected = functional_call(net, {name: changed.requires_grad_()}, (given,))
            assert found is not None
            assert len(found) == len(expected)
            assert all(map(torch.equal, found, expected))


def test_what_the_output_does_not_depend_on_is_not_run() -> None:
    net = Net(lambda net, x: (net.b(x), net.a(x))[1]).eval()
    replay = Replay(taped(net, x()))
    assert replay.outputs({replay.tape.names["b.weight"]: net.b.weight}) is None
    assert replay.outputs({replay.tape.names["c.weight"]: net.c.weight}) is None
    assert replay.tape.first_use(frozenset({replay.tape.names["c.weight"]})) == len(
        replay.tape.steps
    )


def test_only_what_depends_on_the_change_is_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net(branches).eval()
    replay = Replay(taped(net, x()))
    ran: list[str] = []

    def spy(step: Step, values: dict[int, Tensor]) -> None:
        ran.append(str(step.func))
        run_step(step, values)

    monkeypatch.setattr("mixq.graph.replay.run_step", spy)
    value = replay.tape.names["a.weight"]
    for changed in changes(net, "a.weight", 2):
        with torch.no_grad():
            replay.outputs({value: changed})
    # The other branch once, and twice: the transposed weight, its product, the concatenation.
    assert [name for name in ran if name == "aten.tanh.default"] == ["aten.tanh.default"]
    assert ran.count("aten.addmm.default") == 2 + 2
    assert ran.count("aten.cat.default") == 2


def test_what_no_later_step_reads_is_dropped() -> None:
    net = Net(lambda net, x: net.c(net.b(net.a(x).relu()).relu())).eval()
    tape = taped(net, x())
    replay = Replay(tape)
    with torch.no_grad():
        for position in range(len(tape.steps) + 1):
            replay.advance(position)
            made = set(replay._values) - set(tape.given)
            assert len(made) <= 2  # the transposed weight and what it will meet
            later = {v for step in tape.steps[position:] for _, v in step.reads} | set(
                tape.outputs
            )
            assert made <= later


def looks(net: Any, x: Tensor) -> Any:
    hidden = net.a(x)
    return net.b(hidden) if hidden.sum().item() > LIMIT else net.c(hidden)


LIMIT = -1e9


def selects(net: Any, x: Tensor) -> Any:
    hidden = net.a(x)
    chosen = hidden[hidden[:, 0] > -1e9]
    return net.b(chosen)


@pytest.mark.parametrize("join", [looks, selects], ids=["number", "shape"])
def test_code_that_looks_at_numbers_is_noticed(join: Callable[..., Any]) -> None:
    net = Net(join).eval()
    tape = taped(net, x())
    assert not tape.is_certain
    replay = Replay(tape)
    other = torch.full((WIDTH, WIDTH), float("nan"))
    with torch.no_grad(), pytest.raises(DivergedError):
        replay.outputs({tape.names["a.weight"]: other})
    # A change that the code does not see is not stopped.
    replay.advance(tape.first_use(frozenset({tape.names["b.weight"]})))
    (changed,) = changes(net, "b.weight", 1)
    with torch.no_grad():
        output = replay.outputs({tape.names["b.weight"]: changed})
    assert output is not None
    assert torch.equal(output[0], whole(net, "b.weight", changed, x()))


def test_the_same_number_is_no_other_way() -> None:
    net = Net(lambda net, x: net.b(net.a(x)) * int(net.a(x).isnan().any().item() + 1)).eval()
    tape = taped(net, x())
    (changed,) = changes(net, "a.weight", 1)
    with torch.no_grad():
        output = Replay(tape).outputs({tape.names["a.weight"]: changed})
    assert output is not None
    assert torch.equal(output[0], whole(net, "a.weight", changed, x()))


def from_numpy(net: Any, x: Tensor) -> Any:
    hidden = net.a(x)
    return net.b(torch.from_numpy(hidden.numpy() * 1.0))


def test_tensors_from_outside_make_a_tape_uncertain() -> None:
    assert not taped(Net(from_numpy).eval(), x()).is_certain
    listed = Net(lambda net, x: net.a(x) + torch.tensor(net.b(x)[0].tolist())).eval()
    assert not taped(listed, x()).is_certain
    assert taped(Net(lambda net, x: net.a(x) * torch.tensor(2.0)).eval(), x()).is_certain


def test_numbers_of_the_inputs_alone_are_no_uncertainty() -> None:
    masked = Net(lambda net, x: net.a(x) if (x > -1e9).all() else net.b(x)).eval()
    assert taped(masked, x()).is_certain
    shifted = Net(lambda net, x: net.a(x) if (x + net.a.bias > -1e9).all() else net.b(x)).eval()
    assert not taped(shifted, x()).is_certain
    in_place = Net(
        lambda net, x: net.a(x) if torch.zeros_like(x).add_(net.a.bias).sum() < 1e9 else x
    ).eval()
    assert not taped(in_place, x()).is_certain


def counts(net: Any, x: Tensor) -> Any:
    net.counter.add_(1)
    return net.a(x) + net.counter


@pytest.mark.parametrize(
    ("join", "why"),
    [
        (lambda net, x: net.a(x) + torch.rand_like(x), "random"),
        (lambda net, x: nn.functional.dropout(net.a(x), training=True), "random"),
        (counts, "changes what the model"),
        (lambda net, x: net.a(x.add_(1)), "changes what the model"),
    ],
    ids=["random", "dropout", "counter", "its-input"],
)
def test_what_cannot_be_repeated_is_refused(join: Callable[..., Any], why: str) -> None:
    with pytest.raises(ModelError, match=why):
        taped(Net(join).eval(), x())


def test_an_output_that_no_step_made_is_refused() -> None:
    recorder, output = Recorder(Net(looks), ()), x()
    with pytest.raises(ModelError, match="made by no operation"):
        recorder.finish(output)


@pytest.mark.parametrize(
    ("module", "shape", "pick"),
    [
        (lambda: nn.LSTM(WIDTH, 6, 2, batch_first=True, bidirectional=True), (2, 5, WIDTH), 0),
        (lambda: nn.GRU(WIDTH, 6), (5, 2, WIDTH), 0),
        (lambda: nn.RNN(WIDTH, 6), (5, 2, WIDTH), 0),
        (lambda: nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True), (2, 5, WIDTH), None),
        (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), (2, 4, 6, 6), None),
        (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2), (2, 4, 6), None),
        (lambda: nn.Bilinear(WIDTH, WIDTH, 3), (2, WIDTH), "twice"),
    ],
    ids=["lstm", "gru", "rnn", "encoder", "conv", "transposed", "bilinear"],
)
def test_modules_of_torch(
    module: Callable[[], nn.Module], shape: Sequence[int], pick: int | str | None
) -> None:
    class Picked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module()

        def forward(self, x: Tensor) -> Tensor:
            output = self.inner(x, x) if pick == "twice" else self.inner(x)
            picked: Tensor = output[pick] if isinstance(pick, int) else output
            return picked

    torch.manual_seed(0)
    net = Picked().eval()
    tape = taped(net, x(*shape))
    for name, _ in net.named_parameters():
        for changed in changes(net, name, 2):
            with torch.no_grad():
                output = Replay(tape).outputs({tape.names[name]: changed})
            assert output is not None
            assert torch.equal(output[0], whole(net, name, changed, x(*shape)))
