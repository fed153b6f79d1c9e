"""Every demand of the contract, alone and in pairs: kept, or refused with what is feasible."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mixq
from mixq.errors import InfeasibleError
from mixq.plan_check import check_plan
from mixq.search.interactions import Auditor
from mixq.search.result import SearchResult
from mixq.sensitivity.metrics.metric import Tensors
from mixq.sensitivity.reference import Reference

ORIGINAL_BYTES = 4 * (32 * 48 + 48 + 48 * 32 + 32 + 32 * 8 + 8)


@dataclass(frozen=True)
class Demand:
    """One demand of `mixq.search`.

    Attributes:
        name: in a budget.
        reached: a value that some plan reaches, together with those of all others.
        impossible: a value that no plan of 8 bits or fewer reaches.
        by_tables: whether that is known before anything is measured.
    """

    name: str
    reached: float
    impossible: float
    by_tables: bool = True


DEMANDS = {
    "target_compression": Demand("compression", 4.0, 99.0),
    "max_size_mb": Demand("max_size_bytes", ORIGINAL_BYTES / 4e6, 1e-4),
    "max_latency_ms": Demand("max_latency_s", 1.0, 1e-6),
    "min_speedup": Demand("min_speedup", 0.5, 1e3),  # layers so small take longer packed
    "max_memory_mb": Demand("max_memory_bytes", 20.0, 1.0),
    "max_error": Demand("max_error", 0.05, 1e-9, by_tables=False),
    "max_metric_drop": Demand("max_metric_drop", 0.05, 1e-9, by_tables=False),
}
SETS = [(name,) for name in DEMANDS] + list(combinations(DEMANDS, 2))


def net() -> nn.Sequential:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 32), nn.Linear(32, 8))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def data() -> Tensor:
    return torch.randn(12, 32, generator=torch.Generator().manual_seed(1))


class Closeness:
    """Minus the mean squared difference from the original's outputs; counts how often it ran."""

    def __init__(self, model: nn.Module) -> None:
        with torch.no_grad():
            self.expected = model(data())
        self.asked = 0

    def __call__(self, model: nn.Module) -> dict[str, float]:
        self.asked += 1
        return {"closeness": -float((model(data()) - self.expected).square().mean())}


def search(**demands: Any) -> SearchResult:
    model = net()
    options = {"evaluate": Closeness(model), **demands}
    return mixq.search(
        model, data(), hardware="intel_cpu", bits=(8, 4, 2), trials=1, sequential=False, **options
    )


@pytest.fixture
def no_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Auditor, "audit", lambda *_: None)  # half of the time of a tiny search


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was compared with the original."""
    names: list[str] = []
    original = Reference.compared

    def counted(reference: Reference, index: int, outputs: Tensors, what: str) -> list[float]:
        names.append(what)
        return original(reference, index, outputs, what)

    monkeypatch.setattr(Reference, "compared", counted)
    return names


@pytest.mark.usefixtures("no_audit")
@pytest.mark.parametrize("names", SETS, ids="+".join)
def test_what_can_be_reached_is(names: tuple[str, ...]) -> None:
    plan = search(**{name: DEMANDS[name].reached for name in names}).plan
    assert set(plan.budget) == {DEMANDS[name].name for name in names}
    # What a plan can show of its demands is recomputed; 3 sentences are of the plan itself.
    told = sum(name != "max_metric_drop" for name in names)
    assert len(check_plan(plan)) == 2 + told
    if "max_metric_drop" in names:
        dropped = -plan.measured.metric["closeness"]
        assert dropped <= DEMANDS["max_metric_drop"].reached


@pytest.mark.parametrize("names", [(name,) for name in DEMANDS] + list(permutations(DEMANDS, 2)),
                         ids="+".join)  # fmt: skip
def test_what_cannot_be_reached_is_refused_with_the_ranges_before_sensitivities(
    names: tuple[str, ...], measured: list[str]
) -> None:
    """The first demand is impossible, the second one is not."""
    first, *others = names
    model = net()
    evaluate = Closeness(model)
    demands = {first: DEMANDS[first].impossible, **{n: DEMANDS[n].reached for n in others}}
    with pytest.raises(InfeasibleError) as caught:
        search(**demands, evaluate=evaluate)
    assert caught.value.exit_status == 3
    assert set(caught.value.ranges) == {DEMANDS[name].name for name in names}
    option = f"--{first.replace('_', '-')} {DEMANDS[first].impossible:g}"
    assert option in str(caught.value)
    assert "cannot be met" in str(caught.value)
    # Nothing but the widest plan is looked at, and that only where no table tells.
    assert set(measured) <= {"the widest plan"}
    assert bool(measured or evaluate.asked) == (not DEMANDS[first].by_tables)
    assert evaluate.asked <= 2  # the original and the widest plan
    if not DEMANDS[first].by_tables:
        assert caught.value.ranges[DEMANDS[first].name].endswith(" or more")


@pytest.mark.usefixtures("no_audit")
@pytest.mark.parametrize("name", ["max_error", "max_metric_drop"])
def test_the_range_that_is_named_can_be_reached(name: str) -> None:
    with pytest.raises(InfeasibleError) as caught:
        search(**{name: 1e-9})
    least = float(caught.value.ranges[name].removesuffix(" or more"))
    assert search(**{name: least}).plan.budget == {name: least}


def test_a_small_plan_that_errs_too_much_names_both_ranges() -> None:
    demands = {"target_compression": 9.5, "max_error": 1e-3, "max_metric_drop": 1e-3}
    with pytest.raises(InfeasibleError, match="together with the other demands") as caught:
        search(**demands)
    ranges = caught.value.ranges
    assert set(ranges) == {"compression", "max_error", "max_metric_drop"}
    assert float(ranges["max_error"].removesuffix(" or more")) > 1e-3
    assert float(ranges["max_metric_drop"].removesuffix(" or more")) > 1e-3
    listed = (f"--{name.replace('_', '-')}: {ranges[DEMANDS[name].name]}" for name in demands)
    assert str(caught.value).endswith("; ".join(listed))


@pytest.mark.usefixtures("no_audit")
def test_where_bytes_are_limited_the_best_plan_that_keeps_the_metric_is_chosen() -> None:
    """And not the smallest: the rest of the bytes is there to be used."""
    roomy = search(target_compression=4.0, max_metric_drop=0.05).plan
    alone = search(target_compression=4.0).plan
    smallest = search(max_metric_drop=0.05).plan
    assert roomy.assignment == alone.assignment
    assert smallest.predicted.weight_bytes < roomy.predicted.weight_bytes


def test_bits_that_hold_the_original_need_no_look_at_the_widest_plan(measured: list[str]) -> None:
    model = net()
    mixq.search(
        model, data(), hardware="intel_cpu", max_metric_drop=0.0, trials=1,
        evaluate=Closeness(model), sequential=False,
    )  # fmt: skip
    assert "the widest plan" not in measured
