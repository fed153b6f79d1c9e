"""round_units: what the units of a tie may take together once all are rounded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from mixq.calibration import Calibration
from mixq.formats import Format
from mixq.profiles import load
from mixq.rounding import guard
from mixq.search.analysis import Layout, lay_out, round_units
from mixq.search.palette import Palette

TIES = ("[02].weight", "[24].weight")
"""Two that share a unit: the units of both take one format."""


def net() -> nn.Sequential:
    generator = torch.Generator().manual_seed(0)
    layers = [nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)]
    model = nn.Sequential(*layers, nn.ReLU(), nn.Linear(64, 64)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 8)
    return model


def data(samples: int) -> Calibration:
    return Calibration.of(torch.randn(samples, 64, generator=torch.Generator().manual_seed(1)))


def laid_out(model: nn.Module, ties: Sequence[str], samples: int = 40) -> Layout:
    palette = Palette((32, 8, 4), group_sizes=(64, 32, 16), method="gptq")
    return lay_out(
        model, data(samples), load("intel_cpu"), palette=palette, pins={}, ties=ties,
        batch_size=1, threads=None,
    )  # fmt: skip


def rounded(ties: Sequence[str], samples: int = 40) -> dict[str, tuple[Format, ...]]:
    model = net()
    layout = laid_out(model, ties, samples)
    found, _ = round_units(model, layout, data(samples), load("intel_cpu"))
    assert found.problem().ties == layout.problem().ties
    return dict(found.formats)


UNITS = [f"{index}.weight" for index in (0, 2, 4, 6)]


def test_the_units_of_a_tie_keep_the_same_formats() -> None:
    for samples in (1, 12, 40, 400):  # too few for GPTQ, enough in some units, enough in all
        found = rounded(TIES, samples)
        assert found["0.weight"] == found["2.weight"] == found["4.weight"]
        assert {fmt.bits for fmt in found["0.weight"]} == {32, 8, 4}


def test_one_unit_without_data_gives_its_whole_tie_searched_scales(
    monkeypatch: pytest.MonkeyPatch,
) -> None:

    monkeypatch.setattr(guard, "_passes", lambda rounder, unit, *rest: unit != "4.weight")
    found = rounded(TIES)
    methods = {unit: {fmt.method for fmt in found[unit] if fmt.bits < 32} for unit in UNITS}
    assert methods == {**{key: {"clip"} for key in UNITS[:3]}, "6.weight": {"gptq"}}
    alone = rounded(())
    assert {fmt.method for fmt in alone["0.weight"] if fmt.bits < 32} == {"gptq"}
    assert {fmt.method for fmt in alone["4.weight"] if fmt.bits < 32} == {"clip"}


@pytest.mark.parametrize("samples", [1, 400], ids=["nothing-learns", "gptq-learns"])
def test_formats_are_compared_on_inputs_that_rounding_has_not_seen(
    samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, seen = net(), {}

    def spy(unit: str, formats: tuple[Format, ...], *rest: Any) -> tuple[Format, ...]:
        seen[unit] = rest[-1]
        return formats

    monkeypatch.setattr("mixq.search.analysis.pruned", spy)
    layout = laid_out(model, (), samples)
    _, rounding = round_units(model, layout, data(samples), load("intel_cpu"))
    assert len(rounding.unseen_moments) == (0 if samples == 1 else 4)
    assert seen == {unit: rounding.unseen_moments.get(unit) for unit in UNITS}


def test_what_is_beaten_in_one_unit_of_a_tie_may_be_best_for_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dropped = {"0.weight": {32}, "2.weight": {32, 16}, "4.weight": {32}, "6.weight": {32, 16}}

    def pruned(unit: str, formats: Sequence[Format], *_: Any) -> tuple[Format, ...]:
        return tuple(f for f in formats if f.bits != 4 or f.group_size not in dropped[unit])

    monkeypatch.setattr("mixq.search.analysis.pruned", pruned)
    found = rounded(TIES)
    groups = {unit: [f.group_size for f in found[unit] if f.bits == 4] for unit in UNITS}
    assert groups == {**{key: [64, 16] for key in UNITS[:3]}, "6.weight": [64]}
