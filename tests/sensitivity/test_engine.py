"""Engine: the quick way has the bits of the plain way, or the plain way is taken and said."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mixq.calibration import Calibration
from mixq.errors import NonFiniteError
from mixq.rounding.replacement import Replacement
from mixq.sensitivity.engine import Engine
from mixq.sensitivity.metrics.loss import LossIncrease
from mixq.sensitivity.metrics.metric import Metric
from mixq.sensitivity.metrics.resolve import DISTANCES
from mixq.sensitivity.metrics.weighted import Weighted
from mixq.sensitivity.reference import Reference
from mixq.sensitivity.suffixes import Suffixes

WIDTH = 8
NAMES = ("first.weight", "second.weight", "third.weight")


class Net(nn.Module):
    """Defined against the order in which it runs; `between` is called on what `second` gets."""

    def __init__(self, between: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.third = nn.Linear(WIDTH, WIDTH)
        self.second = nn.Linear(WIDTH, WIDTH)
        self.first = nn.Linear(WIDTH, WIDTH)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.third(self.second(self.between(self.first(x))).relu())
        return hidden


def reference(net: nn.Module, batches: int = 2) -> Reference:
    inputs = torch.randn(3 * batches, WIDTH, generator=torch.Generator().manual_seed(1))
    return Reference(net.eval(), Calibration.of(list(inputs.split(3))))


def changed(net: nn.Module, name: str, seed: int = 0, scale: float = 0.1) -> Replacement:
    weight = net.get_parameter(name).detach()
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
    return Replacement({name: weight + scale * noise})


class Spy:
    """Which measurements the whole model was run for, and on how many batches."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ran: list[tuple[str, int | None]] = []
        plain = Reference.errors

        def errors(
            own: Reference, replacement: Replacement, what: str, batches: int | None = None
        ) -> list[float]:
            self.ran.append((what, batches))
            return plain(own, replacement, what, batches)

        monkeypatch.setattr(Reference, "errors", errors)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    return Spy(monkeypatch)


def through_numpy(x: Tensor) -> Tensor:
    return torch.from_numpy(x.numpy() * 1.0)


def by_number(x: Tensor) -> Tensor:
    return x.relu() if (x.sum() > 0).item() else -x


def with_literal(x: Tensor) -> Tensor:
    return x * torch.tensor([2.0] * WIDTH)


def with_noise(x: Tensor) -> Tensor:
    return x + torch.randn_like(x)


def attending(x: Tensor, dropout: float = 0.0) -> Tensor:
    heads = x[:, None, None, :]  # torch says of the fused operation that it is random
    return functional.scaled_dot_product_attention(heads, heads, heads, dropout_p=dropout)[:, 0, 0]


def with_dropout(x: Tensor) -> Tensor:
    return attending(x, dropout=0.5)


BETWEEN: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "plain": (torch.relu, ""),
    "literal": (with_literal, ""),
    "number": (by_number, ""),
    "numpy": (through_numpy, "with first.weight it gives other bits than the model itself"),
    "attention": (attending, ""),
    "dropout": (with_dropout, "draws random numbers"),
    "noise": (with_noise, "draws random numbers"),
}


@pytest.mark.parametrize(("between", "said"), BETWEEN.values(), ids=BETWEEN)
def test_errors_are_those_of_the_whole_model(
    between: Callable[[Tensor], Tensor], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    net = Net(between)
    known = reference(net)
    engine = Engine(known)
    for name in sorted(NAMES, key=lambda name: engine.order([name])):
        for seed in range(3):
            replacement = changed(net, name, seed, scale=1.0)
            assert engine.errors(name, replacement, name) == known.errors(replacement, name)
    assert [said in record.getMessage() for record in caplog.records] == [True] * bool(said)


class Nested(Net):
    """Several outputs: of the first layer, of the second, of all; and what is no number."""

    def forward(self, x: Tensor) -> Any:
        first = self.first(x).relu()
        second = self.second(first)
        return {"hidden": [first, (second,)], "ids": x.argmax(1), "logits": self.third(second)}


def spread(outputs: Any, batch: object) -> Tensor:
    difference: Tensor = outputs["logits"].sum(1) - outputs["hidden.0"].sum(1)
    return difference


METRICS: dict[str, Metric] = {
    name: Weighted(kind(), {"hidden.1.0": 0.25, "logits": 0.25, "hidden.0": 0.5})
    for name, kind in DISTANCES.items()
}
METRICS["loss"] = LossIncrease(spread, {"logits": 0.5, "hidden.0": 0.5}, "spread")


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_every_metric_of_several_outputs_has_the_bits_of_the_whole_model(
    metric: Metric, spy: Spy
) -> None:
    net = Nested().eval()
    inputs = torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(1))
    known = Reference(net, Calibration.of(list(inputs.split(3))), metric)
    suffixes = Suffixes(known)
    found = {}
    for name in NAMES:
        found[name] = suffixes.errors(changed(net, name), name)
    assert spy.ran == []
    for name in NAMES:
        assert found[name] == known.errors(changed(net, name), name)
        assert len(found[name]) == known.samples == 6
        assert max(map(abs, found[name])) > 0


def test_one_measurement_proves_a_certain_tape(spy: Spy) -> None:
    net = Net()
    engine = Engine(reference(net))
    assert sorted(NAMES, key=lambda name: engine.order([name])) == list(NAMES)
    for name in NAMES:
        for seed in range(3):
            engine.errors(name, changed(net, name, seed), name)
    assert spy.ran == [("first.weight", None)]


def test_an_uncertain_tape_is_compared_for_every_unit(spy: Spy) -> None:
    net = Net(with_literal)
    engine = Engine(reference(net))
    for name in NAMES:
        for seed in range(3):
            engine.errors(name, changed(net, name, seed), name)
    assert spy.ran == [("first.weight", None), ("second.weight", 1), ("third.weight", 1)]


def test_a_difference_in_a_later_unit_is_found(caplog: pytest.LogCaptureFixture) -> None:
    """The first unit to be compared lies behind what leaves torch."""
    net = Net(through_numpy)
    known = reference(net)
    engine = Engine(known)
    for name in ("second.weight", "third.weight", "first.weight"):
        replacement = changed(net, name)
        assert engine.errors(name, replacement, name) == known.errors(replacement, name)
    assert caplog.records == []  # `first` lay behind: the whole model was run for it
    engine = Engine(known)
    assert engine.errors("bias", changed(net, "third.bias"), "bias")
    assert engine._suffixes is not None
    assert not engine._suffixes.is_certain


def test_what_lies_behind_is_run_whole(spy: Spy, caplog: pytest.LogCaptureFixture) -> None:
    net = Net()
    known = reference(net)
    engine = Engine(known)
    for name in reversed(NAMES):
        replacement = changed(net, name)
        assert engine.errors(name, replacement, name) == known.errors(replacement, name)
    assert caplog.records == []


def test_another_way_through_the_code_is_run_whole(spy: Spy) -> None:
    net = Net(by_number)
    suffixes = Suffixes(reference(net))
    with torch.no_grad():
        opposite = Replacement(
            {"first.weight": -net.first.weight.detach(), "first.bias": -net.first.bias.detach()}
        )
    suffixes.errors(changed(net, "first.weight", scale=1e-6), "hardly")
    assert spy.ran == []
    suffixes.errors(opposite, "opposite")
    assert spy.ran == [("opposite", None)]


def test_rounded_inputs_are_run_whole(spy: Spy) -> None:
    net = Net()
    replacement = Replacement(changed(net, "second.weight").tensors, {"second": torch.round})
    known = reference(net)
    found = Suffixes(known).errors(replacement, "both")
    assert spy.ran == [("both", None)]
    assert found == known.errors(replacement, "both")


def test_outputs_that_are_not_finite_name_what_was_changed() -> None:
    net = Net()
    bad = Replacement({"second.weight": torch.full((WIDTH, WIDTH), float("inf"))})
    with pytest.raises(NonFiniteError, match=r"with second\.weight at w2"):
        Suffixes(reference(net)).errors(bad, "second.weight at w2")


def test_a_tensor_that_nothing_reads_costs_nothing(spy: Spy) -> None:
    class Idle(Net):
        def __init__(self) -> None:
            super().__init__()
            self.idle = nn.Linear(WIDTH, WIDTH)

    net = Idle()
    assert Suffixes(reference(net)).errors(changed(net, "idle.weight"), "idle") == [0.0] * 6
    assert spy.ran == []


def test_models_that_fail_on_the_tape_are_run_whole(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise TypeError("dispatch\nfails")

    net = Net()
    known = reference(net)
    monkeypatch.setattr("mixq.sensitivity.suffixes.Recorder.see", fail)
    engine = Engine(known)
    replacement = changed(net, "first.weight")
    assert engine.errors("first.weight", replacement, "a") == known.errors(replacement, "a")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "dispatch" in record.getMessage()
