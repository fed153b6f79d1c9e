"""What-if: the answer that a search from scratch would start from, without measuring."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mixq.errors import InfeasibleError, UsageError
from mixq.formats import Format
from mixq.search.budget import Budget
from mixq.search.call import search
from mixq.search.choice import Choice
from mixq.search.frontier import build_frontier
from mixq.search.limits import Limits
from mixq.search.problem import Problem
from mixq.search.result import SearchResult
from mixq.search.solve import solve
from mixq.search.what_if import what_if
from mixq.sensitivity.reference import Reference

FORMATS = (Format(32), Format(8), Format(4), Format(2))


def made(units: int = 20) -> Problem:
    chance = np.random.default_rng(1)
    choices = {}
    for unit in range(units):
        weights, scale = int(chance.integers(1_000, 90_000)), chance.lognormal(0, 1.5)
        choices[f"layer{unit}.weight"] = tuple(
            Choice(
                fmt,
                0.0 if fmt.bits == 32 else scale * 4.0**-fmt.bits,
                weights * fmt.bits // 8,
                weights * 1e-9 * (1 + fmt.bits / 32),
            )
            for fmt in FORMATS
        )
    original = sum(row[0].weight_bytes for row in choices.values())
    return Problem(choices, original_bytes=original + 10, other_bytes=10)


PROBLEM = made()
FRONTIER = build_frontier(PROBLEM)
BASELINE_S = PROBLEM.extreme("error").latency_s


@pytest.mark.parametrize("known", [True, False], ids=["frontier", "no-frontier"])
@pytest.mark.parametrize(
    "demands",
    [
        {"compression": 7.5},
        {"max_size_bytes": PROBLEM.original_bytes // 6},
        {"max_error": 0.01},
        {"compression": 5, "max_error": 1.0},
        {"min_speedup": 1.5},
        {"compression": 6, "max_latency_s": 0.7 * BASELINE_S},
        {},
    ],
    ids=["compression", "size", "error", "two", "speed-up", "size-and-latency", "nothing"],
)
def test_it_is_the_optimum(demands: dict[str, Any], known: bool) -> None:
    budget = Budget(**demands)
    found = what_if(
        PROBLEM, budget, frontier=FRONTIER if known else None, baseline_latency_s=BASELINE_S
    )
    limits = budget.limits(PROBLEM, BASELINE_S)
    found.verify(PROBLEM, limits)
    expected = solve(PROBLEM, limits)
    assert found.totals == expected.totals
    assert found.certificate.gap == 0


def test_pins_and_ties() -> None:
    budget, pins = Budget(compression=8), {"layer0.weight": 8, "layer3.weight": 2}
    ties = [["layer1.weight", "layer2.weight"]]
    found = what_if(PROBLEM, budget, pins=pins, ties=ties, frontier=FRONTIER)
    widths = {unit: fmt.bits for unit, fmt in found.assignment.items()}
    assert {unit: widths[unit] for unit in pins} == pins
    assert widths["layer1.weight"] == widths["layer2.weight"]
    assert found.totals.compression >= 8
    expected = solve(PROBLEM.pinned(pins).tied(ties), budget.limits(PROBLEM))
    assert found.totals == expected.totals
    assert found.totals.error >= FRONTIER.best_under(PROBLEM.original_bytes // 8).error


@pytest.mark.parametrize(
    ("kind", "arguments", "named"),
    [
        (InfeasibleError, {"budget": Budget(compression=40)}, "--target-compression 40"),
        (InfeasibleError, {"pins": {f"layer{n}.weight": 32 for n in range(20)}}, "cannot be met"),
        (UsageError, {"budget": Budget(max_metric_drop=0.1)}, "--max-metric-drop"),
        (UsageError, {"pins": {"nose": 4}}, "'nose'"),
        (UsageError, {"pins": {"layer0.weight": 16}}, "32, 8, 4, 2"),
        (UsageError, {"ties": [["layer0.weight", "nose"]]}, "'nose'"),
    ],
    ids=["budget", "pins", "drop", "pin-unknown", "pin-width", "tie-unknown"],
)
def test_refuses_in_one_line(kind: type[Exception], arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(kind) as refusal:
        what_if(PROBLEM, **{"budget": Budget(compression=8), **arguments})
    assert named in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.fixture(scope="module")
def result() -> SearchResult:
    """Of three layers."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 32), nn.Linear(32, 8))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    inputs = torch.randn(12, 32, generator=generator)
    return search(model, inputs, hardware="intel_cpu", trials=2, target_compression=5)


def test_of_a_search_result(result: SearchResult, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> None:
        raise AssertionError("the model was run")

    monkeypatch.setattr(Reference, "errors", run)
    monkeypatch.setattr(Reference, "compared", run)
    problem = result.frontier.problem
    same = result.what_if(target_compression=5)
    assert same.totals == solve(problem, Limits(problem.original_bytes // 5)).totals
    assert result.certificate is not None
    assert same.certificate.lower_bound == result.certificate.lower_bound
    pinned = result.what_if(target_compression=5, pin={"0.*": 8})
    assert pinned.assignment["0.weight"].bits == 8
    assert pinned.totals.error >= same.totals.error
    tied = result.what_if(max_error=1.0, tie=["[23].weight"])
    assert tied.assignment["2.weight"] == tied.assignment["3.weight"]
    smaller = result.what_if(max_error=2 * same.totals.error)
    assert smaller.totals.weight_bytes <= same.totals.weight_bytes
    with pytest.raises(UsageError, match="--pin nose"):
        result.what_if(target_compression=5, pin={"nose": 8})
    with pytest.raises(InfeasibleError):
        result.what_if(target_compression=400)
