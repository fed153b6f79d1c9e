"""Race: as many samples as the plan needs, and the same numbers as measuring them at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mixq
from mixq.calibration import Calibration
from mixq.errors import MixqError
from mixq.formats import Format
from mixq.profiles import load
from mixq.rounding.rounder import Rounder
from mixq.search import race as race_module
from mixq.search.analysis import Layout, lay_out
from mixq.search.budget import Budget
from mixq.search.palette import Palette
from mixq.search.race import FIRST, race, regret
from mixq.search.sensitivities import find_sensitivity
from mixq.sensitivity.metrics.metric import Metric
from mixq.sensitivity.reference import Reference

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
    return race(layout, rounder, calibration, folder=folder, **options)


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


@pytest.mark.parametrize("samples", [1, 3, 4, 5, 21])
def test_all_samples_give_what_measuring_them_at_once_gives(
    samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(race_module, "TOLERANCE", -1.0)  # never enough
    rounds = samples_measured(monkeypatch)
    table = raced(samples)
    assert rounds == {1: [1], 3: [3], 4: [4], 5: [4, 1], 21: [4, 4, 8, 5]}[samples]
    model, calibration = net(), data(samples)
    layout = laid_out(model, calibration)
    rounder = Rounder(model, layout.graph.units)
    at_once = find_sensitivity("measured", layout, rounder, calibration)
    assert (table.samples, table.mode, at_once.mode) == (samples, "auto", "measured")
    assert table.calibration_fingerprint == calibration.fingerprint
    assert table.output_power == pytest.approx(at_once.output_power, rel=1e-6)
    assert list(table.entries) == list(at_once.entries)
    for unit, row in at_once.entries.items():
        for fmt, entry in row.items():
            found = table.entries[unit][fmt]
            # Batches of other sizes are summed in another order by torch.
            assert found.error == pytest.approx(entry.error, rel=1e-4)
            assert found.error_se == pytest.approx(entry.error_se, rel=1e-3)
            assert found.samples == samples


def test_it_stops_where_more_would_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race_module, "regret", lambda *_: 0.0)
    rounds = samples_measured(monkeypatch)
    table = raced(50)
    assert rounds == [FIRST]
    assert table.samples == FIRST
    assert table.calibration_fingerprint == data(50).take(FIRST).fingerprint


def test_it_goes_on_from_what_a_folder_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = raced(21, tmp_path)

    def never(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(Reference, "compared", never)
    assert raced(21, tmp_path) == first


def test_whole_batches_are_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race_module, "TOLERANCE", -1.0)
    rounds = samples_measured(monkeypatch)
    model = net()
    calibration = Calibration(data(21).batches, whole=True)
    layout = laid_out(model, calibration)
    race(layout, Rounder(model, layout.graph.units), calibration)
    assert rounds == [6, 6, 9]


class TestRegret:
    """What a plan may lose by the draw of its samples."""

    def setup_method(self) -> None:
        self.layout = laid_out(net(), data(4))
        self.formats = dict(self.layout.formats)

    def errors(self, spread: float, samples: int = 8) -> dict[tuple[str, Format], list[float]]:
        """Errors of units that differ a little, times something of each sample's own."""
        generator = torch.Generator().manual_seed(2)
        scale = {32: 0.0, 8: 1e-4, 4: 1e-2, 2: 1.0}
        found = {}
        for index, (unit, formats) in enumerate(self.formats.items()):
            for fmt in formats:
                noise = torch.randn(samples, generator=generator) * spread
                base = scale[fmt.bits] * (1 + 0.1 * index)
                found[unit, fmt] = (base * noise.exp()).tolist()
        return found

    def test_samples_that_agree_leave_none(self) -> None:
        assert regret(self.layout, self.errors(0.0)) == 0.0

    def test_samples_that_differ_by_a_common_factor_leave_none(self) -> None:
        factors = [0.1, 1.0, 7.0, 30.0]
        errors = {key: [row[0] * f for f in factors] for key, row in self.errors(0.0).items()}
        assert regret(self.layout, errors) == pytest.approx(0.0, abs=1e-12)

    def test_it_grows_with_what_samples_disagree_about(self) -> None:
        small, large = (regret(self.layout, self.errors(spread)) for spread in (0.1, 1.5))
        assert 0 <= small < large

    def test_it_looks_at_what_is_demanded(self) -> None:
        errors = self.errors(1.5)
        smallest = self.layout.problem().extreme("weight_bytes").weight_bytes
        all_small = regret(self.layout, errors, Budget(max_size_bytes=smallest))
        assert all_small == 0.0  # there is one plan only
        assert regret(self.layout, errors, Budget(compression=7)) > 0
        assert regret(self.layout, errors, Budget(max_error=1.0)) == regret(self.layout, errors)

    def test_errors_of_zero_leave_nothing_to_lose(self) -> None:
        errors = {key: [0.0] * 4 for key in self.errors(0.0)}
        assert regret(self.layout, errors) == 0.0


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
