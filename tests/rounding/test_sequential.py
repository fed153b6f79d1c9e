"""Rounding in sequence: each unit for the inputs that it gets behind rounded units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mixq.calibration import Calibration
from mixq.errors import ModelError
from mixq.formats import Format
from mixq.graph.build import build_graph
from mixq.moments.collect import collect
from mixq.moments.cross import cross_moments
from mixq.rounding import sequential
from mixq.rounding.rounder import Rounder
from mixq.rounding.sequential import STAGE, moved, round_in_sequence

GPTQ, CLIP, NEAREST = (Format.parse(f"w4g16-affine{tail}") for tail in ("-gptq", "-clip", ""))
WIDTH = 16


class Net(nn.Module):
    """Two branches that share their input, defined against the order in which they run."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(WIDTH, 4)
        self.right = nn.Linear(WIDTH, WIDTH)
        self.left = nn.Linear(WIDTH, WIDTH)
        self.first = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        y: Tensor = self.last(self.left(x).relu() + self.right(x))
        return y


class Prepared:
    """A net, its calibration, and a rounder that has learnt from it."""

    def __init__(self, samples: int = 96) -> None:
        torch.manual_seed(0)
        self.model = Net().eval()
        mixing = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(1))
        inputs = torch.randn(samples, WIDTH, generator=torch.Generator().manual_seed(2)) @ mixing
        self.calibration = Calibration.of(list(inputs.split(32)))
        self.graph = build_graph(self.model, lambda: self.model(inputs[:2]))
        units = self.graph.units
        moments = collect(self.model, self.calibration, units.values())
        self.rounder = Rounder(self.model, units, moments)

    def sequence(self, **formats: Format) -> tuple[Rounder, dict[str, Format]]:
        assignment = {f"{name}.weight": fmt for name, fmt in formats.items()}
        found = round_in_sequence(self.rounder, self.graph, assignment, self.calibration)
        return found, assignment


def codes(rounder: Rounder, unit: str, fmt: Format) -> Tensor:
    return rounder.packed(unit, fmt).unpacked()


def behind(known: Rounder, formats: Mapping[str, Format]) -> dict[str, Tensor]:
    """The tensors that the units in front have once they are rounded."""
    tensors: dict[str, Tensor] = {}
    for name, fmt in formats.items():
        tensors |= known.replacement(f"{name}.weight", fmt).tensors
    return tensors


def test_each_unit_is_rounded_for_what_it_gets_behind_rounded_units() -> None:
    given = Prepared()
    found, assignment = given.sequence(first=GPTQ, left=GPTQ, right=GPTQ, last=GPTQ)
    assert torch.equal(
        codes(found, "first.weight", GPTQ), codes(given.rounder, "first.weight", GPTQ)
    )
    in_front: dict[str, Format] = {"first": GPTQ}
    for group in (["left", "right"], ["last"]):
        for name in group:
            unit = f"{name}.weight"
            second, cross = cross_moments(
                given.model, given.calibration, given.graph.units[unit], behind(found, in_front)
            )
            target = moved(given.rounder.matrix(unit), second, cross)
            expected = given.rounder.rounded(unit, GPTQ, target, second).unpacked()
            assert torch.equal(codes(found, unit, GPTQ), expected)
            assert not torch.equal(expected, codes(given.rounder, unit, GPTQ))
        in_front |= dict.fromkeys(group, GPTQ)
    assert set(assignment) == set(given.graph.units)


def test_it_errs_less_than_rounding_each_by_itself() -> None:
    given = Prepared(samples=256)
    found, assignment = given.sequence(first=GPTQ, left=GPTQ, right=GPTQ, last=GPTQ)
    inputs = torch.cat([b for b in given.calibration.batches if isinstance(b, Tensor)])

    def error(rounder: Rounder) -> float:
        tensors = rounder.joint(assignment).tensors
        with torch.no_grad():
            changed = torch.func.functional_call(given.model, dict(tensors), inputs)
            return float((changed - given.model(inputs)).square().mean())

    assert error(found) < error(given.rounder)


def test_the_rounder_and_the_model_stay_as_they_were() -> None:
    given = Prepared()
    weights = {name: value.clone() for name, value in given.model.state_dict().items()}
    before = codes(given.rounder, "last.weight", GPTQ)
    found, _ = given.sequence(first=GPTQ, left=GPTQ, right=GPTQ, last=GPTQ)
    assert torch.equal(codes(given.rounder, "last.weight", GPTQ), before)
    assert not torch.equal(codes(found, "last.weight", GPTQ), before)
    assert all(torch.equal(weights[name], v) for name, v in given.model.state_dict().items())


@pytest.mark.parametrize("other", [CLIP, NEAREST], ids=["clip", "rtn"])
def test_only_gptq_is_rounded_again_but_all_stand_in_front(other: Format) -> None:
    given = Prepared()
    found, _ = given.sequence(first=GPTQ, left=other, right=other, last=GPTQ)
    assert torch.equal(
        codes(found, "left.weight", other), codes(given.rounder, "left.weight", other)
    )
    in_front = {"first": GPTQ, "left": other, "right": other}
    second, cross = cross_moments(
        given.model, given.calibration, given.graph.units["last.weight"], behind(found, in_front)
    )
    target = moved(given.rounder.matrix("last.weight"), second, cross)
    expected = given.rounder.rounded("last.weight", GPTQ, target, second).unpacked()
    assert torch.equal(codes(found, "last.weight", GPTQ), expected)


@pytest.mark.parametrize(
    ("formats", "met"),
    [
        ({"first": GPTQ, "left": GPTQ, "right": GPTQ, "last": GPTQ}, ["left", "last"]),
        ({"first": GPTQ, "left": CLIP, "right": GPTQ, "last": CLIP}, ["right"]),
        ({"first": Format(32), "left": GPTQ, "right": GPTQ, "last": Format(32)}, []),
        ({"left": GPTQ, "last": GPTQ}, ["last"]),
    ],
    ids=["twins-once", "clip-never", "nothing-in-front", "part-of-a-plan"],
)
def test_the_model_runs_once_per_set_of_inputs(
    formats: dict[str, Format], met: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def spy(model: nn.Module, calibration: Calibration, unit: Any, replaced: Any) -> Any:
        asked.append(unit.name.removesuffix(".weight"))
        return cross_moments(model, calibration, unit, replaced)

    monkeypatch.setattr(sequential, "cross_moments", spy)
    Prepared().sequence(**formats)
    assert asked == met


def test_places_that_cannot_be_compared_leave_the_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ModelError("other positions")

    monkeypatch.setattr(sequential, "cross_moments", refuse)
    given = Prepared()
    found, assignment = given.sequence(first=GPTQ, left=GPTQ, right=GPTQ, last=GPTQ)
    for unit, fmt in assignment.items():
        assert torch.equal(codes(found, unit, fmt), codes(given.rounder, unit, fmt))


def test_progress_counts_the_sets_of_inputs() -> None:
    given, steps = Prepared(), []
    round_in_sequence(
        given.rounder,
        given.graph,
        dict.fromkeys(given.graph.units, GPTQ),
        given.calibration,
        lambda stage, done, total: steps.append((stage, done, total)),
    )
    assert steps[-1] == (STAGE, 3, 3)


class TestMoved:
    """V minimises E|W x - V y|^2 + d |V - W|^2."""

    @staticmethod
    def moments(
        samples: int, groups: int = 1, columns: int = 6
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(3)
        x = torch.randn(groups, samples, columns, generator=generator, dtype=torch.float64)
        y = x + 0.3 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
        return x, y, y.mT @ y / samples, x.mT @ y / samples

    @pytest.mark.parametrize("groups", [1, 2])
    @pytest.mark.parametrize("damping", [0.1, 1.0])
    def test_the_gradient_vanishes(self, damping: float, groups: int) -> None:
        _, _, second, cross = self.moments(50, groups)
        weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(4))
        found = moved(weight, second, cross, damping).double().view(groups, -1, 6)
        w = weight.double().view(groups, -1, 6)
        d = damping * second.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        gradient = found @ second - w @ cross + d * (found - w)
        # The result is rounded to float32: half a unit in the last place times what it meets.
        room = (2.0**-24 * found.abs()) @ (second.abs() + d * torch.eye(6, dtype=torch.float64))
        assert (gradient.abs() <= room + 1e-12).all()

    def test_without_damping_it_is_least_squares(self) -> None:
        x, y, second, cross = self.moments(50)
        weight = torch.randn(3, 6, generator=torch.Generator().manual_seed(4))
        expected = torch.linalg.lstsq(y[0], x[0] @ weight.double().mT).solution.mT
        torch.testing.assert_close(moved(weight, second, cross, 0.0), expected.float())

    @pytest.mark.parametrize("samples", [2, 50], ids=["singular", "plenty"])
    def test_same_inputs_leave_the_weights(self, samples: int) -> None:
        x, _, _, _ = self.moments(samples)
        second = x.mT @ x / samples
        weight = torch.randn(3, 6, generator=torch.Generator().manual_seed(4))
        torch.testing.assert_close(moved(weight, second, second), weight)

    def test_inputs_of_zero_leave_the_weights(self) -> None:
        weight = torch.randn(3, 6, generator=torch.Generator().manual_seed(4))
        nothing = torch.zeros(1, 6, 6)
        assert torch.equal(moved(weight, nothing, nothing), weight)
