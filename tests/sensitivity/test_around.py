"""Around: changes of a plan give the bits that the whole changed plan gives."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mixq.calibration import Calibration
from mixq.errors import NonFiniteError
from mixq.formats import Format
from mixq.graph.find import find_units
from mixq.moments.collect import collect
from mixq.rounding.replacement import Replacement
from mixq.rounding.rounder import Rounder
from mixq.sensitivity.around import Around, Change
from mixq.sensitivity.joint import joint_errors
from mixq.sensitivity.reference import Reference
from mixq.sensitivity.suffixes import Suffixes

W32, W16, W8, W4, W2 = map(Format.parse, ("w32", "w16", "w8", "w4g16", "w2g16-zp"))
FORMATS = (W32, W16, W8, W4, W2)


class Net(nn.Module):
    """A tied embedding, a skip connection and a normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        self.first = nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embed(tokens)
        result: Tensor = self.head(self.norm(hidden + self.first(hidden).relu()))
        return result


class Idle(nn.Module):
    """A layer that no output depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(16, 4)
        self.idle = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.idle(x)
        result: Tensor = self.used(x)
        return result


class Locked(nn.Module):
    """What it holds beside its layers cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 3)
        self.lock = threading.Lock()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(self.first(x).tanh())
        return result


def rows(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "linear": (
        lambda: nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 16), nn.Linear(16, 3)),
        rows(5, 16),
    ),
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16),
            nn.Flatten(), nn.LazyLinear(4),
        ),
        rows(5, 3, 8, 8),
    ),
    "recurrent": (lambda: nn.LSTM(16, 16, num_layers=2, batch_first=True), rows(5, 4, 16)),
    "idle": (Idle, rows(5, 16)),
    "not-to-be-copied": (Locked, rows(5, 16)),
    "tied": (Net, torch.arange(20).view(5, 4) % 11),
}  # fmt: skip


def subject(name: str) -> tuple[Reference, Rounder]:
    make, data = MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
        model(data)
    model.eval()
    calibration = Calibration.of([data[:3], data[3:]])
    units = {unit.name: unit for unit in find_units(model)}
    return Reference(model, calibration), Rounder(model, units)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("plan", ["narrow", "mixed", "original"])
def test_a_change_gives_the_bits_of_the_whole_changed_plan(name: str, plan: str) -> None:
    reference, rounder = subject(name)
    units = list(rounder.units)
    wheel = {"narrow": (W4,), "mixed": (W2, W32, W8, W4), "original": (W32,)}[plan]
    assignment = {unit: wheel[i % len(wheel)] for i, unit in enumerate(units)}
    around = Around(reference, rounder, assignment)
    changes = around.ordered(Change((unit,), fmt) for unit in units for fmt in FORMATS)
    assert len(changes) == len(units) * len(FORMATS)
    for change in changes:
        whole = assignment | {change.units[0]: change.format}
        expected = joint_errors(rounder, whole, {"all": reference}, "whole")["all"]
        assert around.errors(change) == expected, change.name


@pytest.mark.parametrize("name", MODELS)
def test_the_model_and_its_reference_stay_as_they_were(name: str) -> None:
    reference, rounder = subject(name)
    before = {key: tensor.clone() for key, tensor in rounder.model.state_dict().items()}
    around = Around(reference, rounder, dict.fromkeys(rounder.units, W4))
    around.errors(Change((next(iter(rounder.units)),), W2))
    after = rounder.model.state_dict()
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())
    assert reference.own is reference.outputs
    assert reference.model is rounder.model


def test_units_that_are_tied_change_together() -> None:
    reference, rounder = subject("linear")
    units = tuple(rounder.units)
    assignment = dict.fromkeys(units, W8)
    around = Around(reference, rounder, assignment)
    expected = joint_errors(
        rounder, assignment | dict.fromkeys(units[:2], W4), {"all": reference}, "whole"
    )
    assert around.errors(Change(units[:2], W4)) == expected["all"]


def test_rounded_activations_before_or_after_the_change_run_the_whole_model() -> None:
    reference, rounder = subject("linear")
    dynamic = Format.parse("w8a8-dynamic")
    units = list(rounder.units)
    assignment = {units[0]: dynamic, units[1]: W4, units[2]: W4}
    around = Around(reference, rounder, assignment)
    for unit, fmt in ((units[0], W8), (units[1], dynamic), (units[2], W2)):
        expected = joint_errors(rounder, assignment | {unit: fmt}, {"all": reference}, "whole")
        assert around.errors(Change((unit,), fmt)) == expected["all"], unit


def test_a_corrected_bias_is_put_back_with_its_weight() -> None:
    reference, blind = subject("linear")
    calibration = Calibration.of(rows(5, 16))
    moments = collect(blind.model, calibration, blind.units.values())
    rounder = Rounder(blind.model, blind.units, moments)
    corrected = Format.parse("w2g16-zp-bc")
    units = list(rounder.units)
    assignment = dict.fromkeys(units, W4) | {units[0]: corrected}
    around = Around(reference, rounder, assignment)
    for unit, fmt in ((units[0], W8), (units[1], corrected)):
        expected = joint_errors(rounder, assignment | {unit: fmt}, {"all": reference}, "whole")
        assert around.errors(Change((unit,), fmt)) == expected["all"], unit


def test_only_what_follows_a_change_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, rounder = subject("linear")
    used: list[str] = []
    plain = Suffixes.errors

    def counted(self: Suffixes, *args: object) -> list[float]:
        used.append("suffix")
        return plain(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Suffixes, "errors", counted)
    around = Around(reference, rounder, dict.fromkeys(rounder.units, W4))
    around.errors(Change((list(rounder.units)[2],), W2))
    assert used == ["suffix"]


def test_a_change_that_breaks_the_model_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, rounder = subject("linear")
    units = list(rounder.units)
    around = Around(reference, rounder, dict.fromkeys(units, W32))
    broken = Replacement({units[1]: torch.full((16, 16), torch.nan)})
    monkeypatch.setattr(rounder, "replacement", lambda unit, fmt: broken)
    with pytest.raises(NonFiniteError, match=re.escape(f"with {units[1]} at w4g16, ")):
        around.errors(Change((units[1],), W4))
