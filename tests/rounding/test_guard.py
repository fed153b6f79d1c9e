"""Guard: GPTQ where the samples suffice, searched scales where they do not, ties together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from torch import nn

from mixq.calibration import Calibration
from mixq.formats import Format
from mixq.graph.find import find_units
from mixq.graph.units import WeightUnit
from mixq.moments.collect import collect
from mixq.rounding.guard import STAGE, guarded_formats
from mixq.rounding.prepare import prepare_rounding
from mixq.rounding.rounder import Rounder

COLUMNS = 48
GPTQ, CLIP = Format.parse("w4g16-affine-gptq"), Format.parse("w4g16-affine-clip")
NARROW = Format.parse("w2g16-affine-gptq")
FORMATS = (Format(32), Format(8, 64), GPTQ, NARROW)


def net(layers: int = 1) -> nn.Sequential:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(*(nn.Linear(COLUMNS, COLUMNS) for _ in range(layers)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / COLUMNS**0.5)
    return model.eval()


def data(samples: int, seed: int = 1) -> Calibration:
    """Eight weak directions in strong noise: many samples show GPTQ the ones, few the other."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(8, COLUMNS, generator=torch.Generator().manual_seed(9))
    directions = torch.randn(samples, 8, generator=generator) @ mixing
    return Calibration.of(0.3 * directions + torch.randn(samples, COLUMNS, generator=generator))


def units_of(model: nn.Module) -> dict[str, WeightUnit]:
    return {unit.name: unit for unit in find_units(model)}


def guarded(
    fitting: int, checking: int, layers: int = 1, ties: Sequence[Sequence[str]] = ()
) -> dict[str, tuple[Format, ...]]:
    model = net(layers)
    units = units_of(model)
    fitted = collect(model, data(fitting), units.values())
    unseen = collect(model, data(checking, seed=2), units.values()) if checking else {}
    formats = dict.fromkeys(units, FORMATS)
    return guarded_formats(Rounder(model, units, fitted), formats, unseen, ties=ties)


CLIPPED = (Format(32), Format(8, 64), CLIP, replace(NARROW, method="clip"))


@pytest.mark.parametrize(
    ("fitting", "checking", "expected"),
    [(8, 400, CLIPPED), (2000, 400, FORMATS), (2000, 0, CLIPPED)],
    ids=["too-few", "plenty", "nothing-to-check-by"],
)
def test_few_samples_give_searched_scales(
    fitting: int, checking: int, expected: tuple[Format, ...]
) -> None:
    assert guarded(fitting, checking) == {"0.weight": expected}


def test_a_unit_that_no_data_reach_gets_searched_scales() -> None:
    model = net()
    formats = {"0.weight": FORMATS}
    assert guarded_formats(Rounder(model, units_of(model)), formats, {}) == {"0.weight": CLIPPED}


def test_too_many_columns_for_second_moments_get_searched_scales() -> None:
    model = net()
    units = units_of(model)
    wide = collect(model, data(2000), units.values(), most_columns=COLUMNS - 1)
    assert wide["0.weight"].second is None
    found = guarded_formats(Rounder(model, units, wide), {"0.weight": FORMATS}, wide)
    assert found == {"0.weight": CLIPPED}


def test_what_the_guard_gives_twice_is_there_once() -> None:
    model = net()
    formats = {"0.weight": (CLIP, GPTQ, Format(8, 64))}
    found = guarded_formats(Rounder(model, units_of(model)), formats, {})
    assert found == {"0.weight": (CLIP, Format(8, 64))}


def test_only_gptq_is_guarded() -> None:
    model, formats = net(), {"0.weight": (Format(32), CLIP, Format.parse("w4g16-hqq"))}
    asked: list[str] = []
    found = guarded_formats(
        Rounder(model, units_of(model)),
        formats,
        {},
        lambda stage, done, total: asked.append(stage),
    )
    assert found == formats
    assert asked == []


def test_activations_and_bias_are_kept() -> None:
    model = net()
    fmt = Format.parse("w8-gptq-bc")
    found = guarded_formats(Rounder(model, units_of(model)), {"0.weight": (fmt,)}, {})
    assert found == {"0.weight": (replace(fmt, method="clip"),)}


def test_the_units_of_a_tie_are_judged_together() -> None:
    model = net(3)
    units = units_of(model)
    formats = dict.fromkeys(units, FORMATS)
    fitted = collect(model, data(2000), units.values())
    unseen = collect(model, data(400, seed=2), units.values())
    blind = {name: moments for name, moments in fitted.items() if name != "1.weight"}

    def found(ties: Sequence[Sequence[str]]) -> Mapping[str, tuple[Format, ...]]:
        return guarded_formats(Rounder(model, units, blind), formats, unseen, ties=ties)

    alone = {"0.weight": FORMATS, "1.weight": CLIPPED, "2.weight": FORMATS}
    assert found(()) == alone
    assert found([["0.weight", "2.weight"]]) == alone
    assert found([["0.weight", "1.weight"]]) == alone | {"0.weight": CLIPPED}


def test_a_scale_beyond_float16_fails_the_unit_and_not_the_search() -> None:
    model = net()
    with torch.no_grad():
        model.get_parameter("0.weight")[0, 0] = 1e9
    units = units_of(model)
    moments = collect(model, data(50), units.values())
    formats = {"0.weight": (Format(32), Format(16), GPTQ)}
    found = guarded_formats(Rounder(model, units, moments), formats, moments)
    assert found == {"0.weight": (Format(32), Format(16), CLIP)}


def test_progress_counts_the_units_that_are_judged() -> None:
    model = net(3)
    units = units_of(model)
    formats = {"0.weight": FORMATS, "1.weight": (Format(8, 64),), "2.weight": FORMATS}
    steps: list[tuple[str, int, int]] = []
    guarded_formats(
        Rounder(model, units),
        formats,
        {},
        lambda stage, done, total: steps.append((stage, done, total)),
    )
    assert steps[-1] == (STAGE, 2, 2)


@pytest.mark.parametrize(("samples", "method"), [(16, "clip"), (2000, "gptq")], ids=str)
def test_what_is_measured_on_is_what_rounding_has_not_learnt(samples: int, method: str) -> None:
    model, calibration = net(), data(samples)
    found = prepare_rounding(model, units_of(model), {"0.weight": FORMATS}, calibration)
    assert {fmt.method for fmt in found.formats["0.weight"] if fmt.bits < 8} == {method}
    learns = method == "gptq"
    learnt, rest = calibration.split()
    assert rest is not None
    assert found.unseen == (rest if learns else calibration)
    seen = found.rounder.moments["0.weight"]
    assert seen.counts.tolist() == [learnt.samples if learns else samples]
    assert found.rounder.fingerprint.startswith((learnt if learns else calibration).fingerprint)
    assert [m.counts.tolist() for m in found.unseen_moments.values()] == [[rest.samples]] * learns


@pytest.mark.parametrize("samples", [16, 2000])
def test_what_is_deployed_learns_from_all(samples: int) -> None:
    model, calibration = net(2), data(samples)
    units = units_of(model)
    found = prepare_rounding(model, units, dict.fromkeys(units, FORMATS), calibration)
    whole = found.whole()
    assert (whole is found.rounder) == (samples == 16)
    everything = collect(model, calibration, units.values())
    for unit, moments in whole.moments.items():
        assert moments.counts.tolist() == [samples]
        assert moments.second is not None
        torch.testing.assert_close(moments.second, everything[unit].second)


def test_units_that_share_inputs_share_them_in_all_data() -> None:
    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = net(), net()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.a(x) - 2 * self.b(x)
            return out

    model = Twins().eval()
    units = units_of(model)
    found = prepare_rounding(model, units, dict.fromkeys(units, FORMATS), data(2000))
    whole = found.whole()
    assert whole is not found.rounder
    assert len({id(moments) for moments in whole.moments.values()}) == 1


def test_preparing_what_needs_no_data_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("the model was run")

    monkeypatch.setattr("mixq.rounding.prepare.collect", never)
    given = {"0.weight": (Format(32), Format(8, 64), Format.parse("w4g16-zp-squant"))}
    model = net()
    calibration = data(4)
    found = prepare_rounding(model, units_of(model), given, calibration)
    assert found.formats == given
    assert found.rounder.fingerprint == ""
    assert found.unseen is calibration
    assert found.whole() is found.rounder


def test_static_ranges_are_collected_for_the_units_that_ask() -> None:
    model = net(2)
    static = Format.parse("w8a8-static")
    given = {"0.weight": (Format(32), static), "1.weight": (Format(32),)}
    found = prepare_rounding(model, units_of(model), given, data(20))
    stored = found.rounder.packed("0.weight", static).tensors
    assert stored["input_scale"].dtype == torch.float32
    assert float(stored["input_scale"]) > 0


def test_one_sample_is_too_few_for_gptq() -> None:
    found = prepare_rounding(net(), units_of(net()), {"0.weight": FORMATS}, data(1))
    assert found.formats == {"0.weight": CLIPPED}
