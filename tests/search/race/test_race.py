"""Race: as many samples as the plan needs, and the same numbers as measuring them at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mixq
from mixq.calibration import Calibration
from mixq.errors import MixqError
from mixq.profiles import load
from mixq.rounding.rounder import Rounder
from mixq.search.analysis import Layout, lay_out
from mixq.search.budget import Budget
from mixq.search.limits import Limits
from mixq.search.palette import Palette
from mixq.search.problem import Problem
from mixq.search.race import race as race_module
from mixq.search.race.contest import Contest, decisions
from mixq.search.race.meter import Meter
from mixq.search.race.race import race
from mixq.search.sensitivities import find_sensitivity
from mixq.search.solve import solve
from mixq.sensitivity.metrics.metric import Metric
from mixq.sensitivity.reference import Reference
from mixq.sensitivity.setting import Setting

WIDTH, LAYERS = 32, 5


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(LAYERS):
        layers += [nn.Linear(WIDTH, WIDTH), nn.Tanh()]
    return nn.Sequential(*layers).eval()


def data(samples: int) -> Calibration:
    inputs = torch.randn(samples, WIDTH, generator=torch.Generator().manual_seed(1))
    return Calibration.of(list(inputs.split(3)))


def laid_out(model: nn.Module, calibration: Calibration, **options: Any) -> Layout:
    given: dict[str, Any] = {"pins": {}, "ties": (), "batch_size": 1, "threads": None, **options}
    palette = Palette((32, 8, 4, 2), (32,), method="rtn")
    return lay_out(model, calibration, load("intel_cpu"), palette=palette, **given)


def raced(samples: int, folder: Path | None = None, **options: Any) -> Any:
    model, calibration = net(), data(samples)
    layout = laid_out(model, calibration)
    rounder = Rounder(model, layout.graph.units)
    return race(layout, rounder, calibration, None, Setting(folder=folder, **options))


def samples_measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Fills with the number of samples of each round."""
    rounds: list[int] = []
    made = Reference.__init__

    def spy(
        own: Reference, model: nn.Module, calibration: Calibration, metric: Metric | None
    ) -> None:
        rounds.append(calibration.samples)
        made(own, model, calibration, metric)

    monkeypatch.setattr(Reference, "__init__", spy)
    return rounds


def everything_matters(problem: Problem, *_: object) -> Contest:
    """As if every plan took other entries, and all were at stake."""
    entries = frozenset((unit, c.format) for unit, row in problem.choices.items() for c in row)
    return Contest(entries, entries, 1.0)


def nothing_is_open(problem: Problem, *_: object) -> Contest:
    """As if every plan took 4 bits everywhere."""
    entries = {(u, c.format) for u, row in problem.choices.items() for c in row}
    return Contest(frozenset(e for e in entries if e[1].bits == 4), frozenset(), 1.0)


@pytest.mark.parametrize("samples", [1, 2, 3, 5, 21])
def test_all_samples_give_what_measuring_them_at_once_gives(
    samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(race_module, "contest", everything_matters)
    rounds = samples_measured(monkeypatch)
    table = raced(samples)
    expected = {1: [1], 2: [1, 1], 3: [1, 1, 1], 5: [1, 1, 2, 1], 21: [1, 1, 2, 4, 8, 5]}
    assert rounds == expected[samples]
    model, calibration = net(), data(samples)
    layout = laid_out(model, calibration)
    rounder = Rounder(model, layout.graph.units)
    at_once = find_sensitivity("measured", layout, rounder, calibration)
    assert (table.samples, table.mode, at_once.mode) == (samples, "auto", "measured")
    assert table.calibration_fingerprint == calibration.fingerprint
    assert table.model_fingerprint == at_once.model_fingerprint
    assert table.output_power == pytest.approx(at_once.output_power, rel=1e-6)
    assert list(table.entries) == list(at_once.entries)
    for unit, row in at_once.entries.items():
        for fmt, entry in row.items():
            found = table.entries[unit][fmt]
            # Batches of other sizes are summed in another order by torch.
            assert found.error == pytest.approx(entry.error, rel=1e-4)
            assert found.samples == samples


def test_what_no_plan_takes_is_sketched_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race_module, "contest", nothing_is_open)
    measured: list[tuple[list[str], int]] = []
    measure = Meter.measure

    def spy(own: Meter, entries: Any, level: int, evidence: Any) -> None:
        measured.append((sorted({fmt.name for _, fmt in entries}), level))
        measure(own, entries, level, evidence)

    monkeypatch.setattr(Meter, "measure", spy)
    rounds = samples_measured(monkeypatch)
    table = raced(50)
    assert measured == [([], 1), (["w4g32-zp"], 1)]
    assert rounds == [1]
    assert table.samples == 1
    assert table.calibration_fingerprint == data(50).take(1).fingerprint
    for row in table.entries.values():
        assert [fmt.bits for fmt in row] == [32, 8, 4, 2]
        errors = [row[fmt].error for fmt in row]
        assert errors == sorted(errors)
        assert errors[0] == 0 < errors[1]


@pytest.mark.parametrize("tolerance", [0.0, 1.0])
def test_it_stops_where_more_would_change_little(
    tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(race_module, "TOLERANCE", tolerance)
    table = raced(64)
    assert (table.samples == 1) == (tolerance == 1.0)


def test_a_model_that_has_no_gradient_is_measured(caplog: pytest.LogCaptureFixture) -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net()

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.inner(x)
            return output.detach()

    model, calibration = Detached().eval(), data(9)
    layout = laid_out(model, calibration)
    table = race(layout, Rounder(model, layout.graph.units), calibration)
    assert "every format of every layer is measured" in caplog.text
    assert len(table.entries) == LAYERS
    assert all(
        entry.error > 0
        for row in table.entries.values()
        for fmt, entry in row.items()
        if fmt.bits < 32
    )


def test_it_goes_on_from_what_a_folder_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = raced(21, tmp_path)

    def never(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(Reference, "compared", never)
    assert raced(21, tmp_path) == first


def test_whole_batches_are_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race_module, "contest", everything_matters)
    rounds = samples_measured(monkeypatch)
    model = net()
    calibration = Calibration(data(21).batches, whole=True)
    layout = laid_out(model, calibration)
    race(layout, Rounder(model, layout.graph.units), calibration)
    assert rounds == [3, 3, 6, 9]


@pytest.mark.parametrize("compression", [5, 7, 9])
def test_its_plans_are_nearly_those_of_all_samples(compression: float) -> None:
    model, calibration = net(), data(64)
    layout = laid_out(model, calibration)
    rounder = Rounder(model, layout.graph.units)
    full = layout.problem(find_sensitivity("measured", layout, rounder, calibration))
    limits = Limits(weight_bytes=int(full.original_bytes / compression))
    table = race(layout, rounder, calibration, Budget(compression=compression))
    found = full.evaluate(solve(layout.problem(table), limits).assignment)
    assert found.error <= 1.03 * full.evaluate(solve(full, limits).assignment).error


def test_what_is_demanded_decides() -> None:
    layout = laid_out(net(), data(4))
    problem = layout.problem()
    assert decisions(layout, problem, Budget(compression=5)) == [
        Limits(weight_bytes=problem.original_bytes // 5)
    ]
    several = decisions(layout, problem, Budget(max_error=1.0))
    assert several == decisions(layout, problem, None)
    assert all(limits.error is None and limits.weight_bytes for limits in several)


@pytest.mark.parametrize("sensitivity", ["auto", "measured", "sketch"])
def test_a_search_takes_its_sensitivities_from(sensitivity: Any, tmp_path: Path) -> None:
    inputs: Tensor = torch.randn(64, WIDTH, generator=torch.Generator().manual_seed(1))
    result = mixq.search(
        net(), inputs, hardware="intel_cpu", target_compression=6, trials=1, bits=(8, 4, 2),
        sensitivity=sensitivity, folder=tmp_path,
    )  # fmt: skip
    assert result.sensitivity.mode == sensitivity
    assert result.plan.predicted.compression >= 6
    again = mixq.search(
        net(), inputs, hardware="intel_cpu", target_compression=6, trials=1, bits=(8, 4, 2),
        sensitivity=sensitivity, folder=tmp_path,
    )  # fmt: skip
    assert again.plan == result.plan


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(MixqError, match="--sensitivity is 'guess', but it must be one of auto"):
        mixq.search(
            net(), torch.randn(8, WIDTH), hardware="intel_cpu", target_compression=6,
            sensitivity="guess",  # type: ignore[arg-type]
        )  # fmt: skip


PROGRAM = """
import torch
from torch import nn
from mixq.calibration import Calibration
from mixq.profiles import load
from mixq.rounding.rounder import Rounder
from mixq.search.analysis import lay_out
from mixq.search.palette import Palette
from mixq.search.race.race import race

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(32, 32) for _ in range(4)))
    def forward(self, x):
        return self.layers(x).detach() if {detached} else self.layers(x)

torch.manual_seed(0)
model, data = Net().eval(), Calibration.of(torch.randn(9, 32))
palette = Palette((32, 8, 4, 2), (16, 32), method="rtn")
layout = lay_out(
    model, data, load("intel_cpu"), palette=palette, pins={{}}, ties=(), batch_size=1, threads=None
)
table = race(layout, Rounder(model, layout.graph.units), data)
table.save("{file}")
"""


@pytest.mark.parametrize("detached", [False, True], ids=["sketched", "measured-from-the-start"])
def test_the_same_table_in_another_process(detached: bool, tmp_path: Path) -> None:
    """To the byte, though sets are iterated over in another order there."""
    files = []
    for seed in ("1", "2"):
        file = tmp_path / f"{seed}.json"
        program = PROGRAM.format(detached=detached, file=file)
        environment = {**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, "-c", program], check=True, env=environment)
        files.append(file.read_bytes())
    assert files[0] == files[1]
