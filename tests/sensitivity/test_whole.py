"""Whole plans measured by workers: bit for bit what one process measures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mixq.calibration import Calibration
from mixq.errors import MixqError, ModelError, NonFiniteError
from mixq.formats import Format
from mixq.graph.find import find_units
from mixq.rounding.prepare import prepare_rounding
from mixq.search.call import search
from mixq.sensitivity.reference import Reference
from mixq.sensitivity.whole import Plan, WholePlans

NAMES = ("w32", "w16", "w8", "w4g16", "w2g16-zp", "w4g16-zp-gptq", "w2g16-clip-bc")
QUANTIZED = ("w8a8-dynamic", "w8a8-static")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def x(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Noisy(nn.Module):
    """Draws random numbers, which must not depend on what was measured before."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = layers()

    def forward(self, data: Tensor) -> Tensor:
        hidden: Tensor = self.inner(data)
        return hidden + torch.randn_like(hidden)


class Fragile(nn.Module):
    """Divides by zero as soon as its first layer is changed."""

    def __init__(self, inner: nn.Sequential) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("exact", inner.get_parameter("0.weight").detach().clone())

    def forward(self, data: Tensor) -> Tensor:
        hidden: Tensor = self.inner(data)
        same = torch.eq(self.inner[0].weight, self.get_buffer("exact"))  # type: ignore[arg-type]
        return hidden / same.all()


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16), nn.GELU(), nn.Linear(16, 4)
    )


def convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 3), nn.Flatten()
    )


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (layers, (16,)),
    "convolution": (convolutions, (3, 9, 9)),
    "noisy": (Noisy, (16,)),
}


def prepared(make: Callable[[], nn.Module], shape: tuple[int, ...], workers: int) -> WholePlans:
    model = make()
    parts = {
        "calibration": Calibration.of([x(2, *shape, seed=seed) for seed in range(5)]),
        "heldout": Calibration.of([x(3, *shape, seed=seed) for seed in range(7, 9)]),
    }
    units = {unit.name: unit for unit in find_units(model)}
    names = (*NAMES, *QUANTIZED)
    formats = {unit: [Format.parse(name) for name in names] for unit in units}
    rounder = prepare_rounding(model, units, formats, parts["calibration"]).rounder
    references = {name: Reference(model, data) for name, data in parts.items()}
    return WholePlans(rounder, references, workers)


def plans(whole: WholePlans, count: int) -> list[Plan]:
    """Plans in which units take formats in turn."""
    names = NAMES if isinstance(whole.rounder.model, Noisy) else (*NAMES, *QUANTIZED)
    return [
        (
            f"plan {start}",
            {
                unit: Format.parse(names[(start + index) % len(names)])
                for index, unit in enumerate(whole.rounder.units)
            },
        )
        for start in range(count)
    ]


def measured(whole: WholePlans, wanted: list[Plan]) -> dict[int, object]:
    found = list(whole.measure(wanted))
    assert len(found) == len(dict(found))
    return {
        index: errors if isinstance(errors, MixqError) else dict(errors)
        for index, errors in sorted(found)
    }


@pytest.mark.parametrize("count", [1, 3, 9], ids="{}-plans".format)
@pytest.mark.parametrize(("make", "shape"), CASES.values(), ids=CASES)
def test_two_workers_measure_what_one_process_does(
    make: Callable[[], nn.Module], shape: tuple[int, ...], count: int
) -> None:
    """A single plan is divided by its batches."""
    alone, divided = (prepared(make, shape, workers) for workers in (1, 2))
    wanted = plans(alone, count)
    expected = measured(alone, wanted)
    assert len(expected) == count
    assert measured(divided, wanted) == expected
    assert measured(divided, wanted[:1]) == {0: expected[0]}  # the same pool again


def test_a_plan_that_is_not_finite_harms_no_other() -> None:
    def fragile() -> nn.Module:
        return Fragile(layers())

    broken = {"inner.0.weight": Format.parse("w8")}
    sound = {"inner.2.weight": Format.parse("w8")}
    wanted: list[Plan] = [("broken", broken), ("sound", sound)]
    found = {}
    for workers in (1, 2):
        outcomes = measured(prepared(fragile, (16,), workers), wanted)
        error = outcomes.pop(0)
        assert isinstance(error, NonFiniteError)
        found[workers] = (str(error), outcomes)
    assert found[1] == found[2]
    assert found[1][0].startswith("with broken, the model's output is NaN or infinite")


def test_a_model_that_cannot_travel_is_refused(tmp_path: Path) -> None:
    whole = prepared(layers, (16,), 2)
    with (tmp_path / "open").open("w") as file:
        whole.rounder.model.file = file  # type: ignore[assignment]
        with pytest.raises(ModelError, match="cannot be sent to another process"):
            list(whole.measure(plans(whole, 1)))


def test_a_search_by_workers_is_the_search_of_one(tmp_path: Path) -> None:
    found = {}
    for workers in (1, 2):
        result = search(
            layers(), x(24, 16), hardware="intel_cpu", target_compression=6.0, trials=5,
            sensitivity="measured", folder=tmp_path / str(workers), workers=workers,
        )  # fmt: skip
        trials = [
            (trial.number, trial.params, trial.values, trial.user_attrs, trial.constraints)
            for trial in result.study.trials
        ]
        found[workers] = (result.plan.to_json(), trials)
    assert found[1] == found[2]
