"""The final check: it passes what a search gives, and catches what is not what was measured."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mixq
from mixq.calibration import Calibration
from mixq.errors import PlanError
from mixq.plan import Plan
from mixq.search.final_check import FLIPS, ROUNDING, FinalCheck, FunctionalCheck, final_check
from mixq.search.palette import Palette
from mixq.search.result import SearchResult
from mixq.sensitivity.compare import Evaluate


def net() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64), nn.Linear(64, 8))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)
    return model


def data(samples: int = 16) -> Tensor:
    return torch.randn(samples, 64, generator=torch.Generator().manual_seed(1))


def closeness(sign: float) -> Evaluate:
    expected = net()(data()).detach()

    def evaluate(model: nn.Module) -> dict[str, float]:
        return {"closeness": sign * float((model(data()) - expected).square().mean())}

    evaluate.higher_is_better = sign < 0  # type: ignore[attr-defined]
    return evaluate


def searched(**options: Any) -> SearchResult:
    given: dict[str, Any] = {"target_compression": 4, "hardware": "intel_cpu", "trials": 1}
    calibration = options.pop("calibration", data())
    return mixq.search(net(), calibration, **{**given, **options})


@pytest.fixture(scope="module")
def result() -> SearchResult:
    torch.set_num_threads(1)
    return searched()


def checked(result: SearchResult, evaluate: Evaluate | None = None) -> FinalCheck:
    return final_check(result, net(), Calibration.of(data()), evaluate)


def with_plan(result: SearchResult, **changes: object) -> SearchResult:
    """The result with parts of its plan changed, the weights still in memory."""
    plan = result.plan.model_copy(update=changes)
    plan._held = result.plan._held
    return replace(result, plan=plan)


def test_what_a_search_gives_passes(result: SearchResult) -> None:
    check = checked(result)
    functional, performance = check.functional, check.performance
    assert check.passed
    check.require()
    assert (functional.data, functional.samples, functional.finite) == ("held-out", 4, True)
    # The same kernels on the same numbers: no tolerance is needed here.
    assert functional.output_mse == result.plan.measured.heldout_output_mse
    assert functional.stored_bytes == result.plan.predicted.weight_bytes
    assert performance.latency_s == result.plan.predicted.latency_s
    assert performance.uniform_8_latency_s == result.plan.uniform["8"].latency_s
    assert performance.broken is None
    assert performance.kept == (
        f"compression 4 demanded, {result.plan.predicted.compression:g} reached",
    )


def test_lines_say_what_was_found(result: SearchResult) -> None:
    plan = result.plan
    first, demand, speed, slower = checked(result).lines
    assert first == (
        f"the packed model runs on 4 held-out samples with output error "
        f"{plan.measured.heldout_output_mse:.4g}, as measured, from "
        f"{plan.predicted.weight_bytes:,} bytes, as predicted"
    )
    assert demand.startswith("compression 4 demanded, ")
    ratio = plan.predicted.baseline_latency_s / plan.predicted.latency_s
    assert f"predicted on intel_cpu, {ratio:.2f}x as fast as 32 bits" in speed
    assert speed.endswith("x as fast as 8 bits everywhere")
    assert slower == "no layer is slower than in 32 bits" or slower.startswith("slower than in")


def test_json_holds_numbers_and_the_verdict(result: SearchResult) -> None:
    document = json.loads(json.dumps(checked(result).to_dict(), allow_nan=False))
    assert document["passed"] is True
    assert document["functional"]["output_mse"] == result.plan.measured.heldout_output_mse
    assert set(document) == {"passed", "functional", "performance"}
    assert document["performance"]["broken"] is None


OPTIONS: dict[str, dict[str, Any]] = {
    "one sample": {"calibration": data(1)},
    "some samples": {"samples": 3},
    "2 bits": {"target_compression": 9},
    "16 bits": {"palette": Palette((32, 16), half="bfloat16"), "target_compression": 1.9},
    "static": {"palette": Palette((8,), activations=("static",)), "target_compression": 3},
    "dynamic": {"palette": Palette((8,), activations=("dynamic",)), "target_compression": 3},
    "equalized": {"equalize": "all"},
    "in sequence": {"sequential": True},
    "no rounding": {"palette": Palette((32,)), "target_compression": 1},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_kind_of_plan_passes(options: dict[str, Any]) -> None:
    found = searched(**options, check=True).check
    assert found is not None
    assert found.passed
    expected = "calibration" if "calibration" in options else "held-out"
    assert found.functional.data == expected


def broken_weights(plan: Plan) -> nn.Module:
    """The packed model with one code of its first layer changed."""
    packed = copy.deepcopy(Plan.apply(plan, net()))  # its codes are the plan's own
    codes = next(buffer for name, buffer in packed.named_buffers() if "codes" in name)
    codes.view(torch.uint8)[:64] ^= 0x77
    return packed


def nan_bias(plan: Plan) -> nn.Module:
    packed = Plan.apply(plan, net())
    with torch.no_grad():
        next(p for name, p in packed.named_parameters() if name.endswith("bias"))[0] = math.nan
    return packed


def original(plan: Plan) -> nn.Module:
    return net()


@pytest.mark.parametrize(
    ("apply", "fault"),
    [
        (broken_weights, r"output error \S+ on held-out data where the search measured"),
        (nan_bias, "an output of the packed model on held-out data is NaN or infinite"),
        (original, "output error 0 on held-out data"),
    ],
    ids=["codes", "nan", "not-quantized"],
)
def test_a_model_that_is_not_what_was_measured_fails(
    result: SearchResult,
    monkeypatch: pytest.MonkeyPatch,
    apply: Callable[[Plan], nn.Module],
    fault: str,
) -> None:
    class Broken(Plan):
        def apply(self, model: nn.Module) -> nn.Module:
            return apply(result.plan)

    broken = Broken.model_construct(**dict(result.plan))
    check = checked(replace(result, plan=broken))
    assert not check.passed
    assert check.to_dict()["passed"] is False
    assert json.dumps(check.to_dict(), allow_nan=False)
    with pytest.raises(PlanError, match=fault) as caught:
        check.require()
    assert str(caught.value).startswith("the final check failed: ")
    assert str(caught.value).isprintable()
    assert check.lines[0] in str(caught.value)


def test_other_bytes_than_predicted_fail(result: SearchResult) -> None:
    plan = result.plan
    more = plan.predicted.weight_bytes + 1
    predicted = plan.predicted.model_copy(
        update={"weight_bytes": more, "compression": plan.model.original_bytes / more}
    )
    check = checked(with_plan(result, predicted=predicted))
    assert not check.passed
    assert f"stores {plan.predicted.weight_bytes:,} bytes where {more:,}" in check.lines[0]


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({"compression": 9.0}, "the plan demands compression 9, but it reaches"),
        ({"max_latency_s": 1e-9}, "the plan demands max_latency_s 1e-09"),
        ({"min_speedup": 1e6}, r"the plan demands min_speedup 1e\+06"),
        ({"max_size_bytes": 10.0}, "the plan demands max_size_bytes 10"),
        ({"max_error": 0.0}, "the plan demands max_error 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_demand_that_is_not_kept_fails(
    result: SearchResult, budget: dict[str, float], said: str
) -> None:
    check = checked(with_plan(result, budget=budget))
    assert check.functional.fault is None
    assert not check.passed
    with pytest.raises(PlanError, match=said):
        check.require()
    assert any(line == check.performance.broken for line in check.lines)


@pytest.mark.parametrize("sign", [-1.0, 1.0], ids=["higher is better", "lower is better"])
def test_the_metric_drop_is_checked_in_its_direction(sign: float) -> None:
    evaluate = closeness(sign)
    found = searched(max_metric_drop=0.5, evaluate=evaluate)
    check = checked(found, evaluate)
    assert check.passed
    assert any(line.startswith("max_metric_drop 0.5 demanded, ") for line in check.lines)
    drop = abs(found.plan.measured.metric["closeness"])
    assert drop > 0
    stricter = with_plan(found, budget={"max_metric_drop": drop / 2})
    failed = checked(stricter, evaluate)
    assert failed.performance.broken is not None
    assert "but closeness drops by" in failed.performance.broken


def test_layers_that_are_slower_are_named_worst_first() -> None:
    conv = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(256, 8))
    x = torch.randn(8, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    found = mixq.search(
        conv, x, hardware="intel_cpu", target_compression=6, trials=1, bits=[8, 4], check=True
    )
    assert found.check is not None
    slower = found.check.performance.slower
    costs = found.layout.costs.entries
    assert {"0.weight", "1.weight"} <= set(slower)
    assert list(slower.values()) == sorted(slower.values(), reverse=True)
    for unit, ratio in slower.items():
        own = costs[unit][found.plan.assignment[unit]].latency_s
        assert ratio == own / next(c.latency_s for f, c in costs[unit].items() if f.bits == 32) > 1
    worst = next(iter(slower))
    line = f"slower than in 32 bits: {worst} ({slower[worst]:.2f}x), "
    assert found.check.lines[-1].startswith(line)


def test_checked_with_a_recipe_only_unless_asked() -> None:
    assert searched().check is None
    assert searched(recipe="mobile_device").check is not None
    assert searched(recipe="mobile_device", check=False).check is None


def test_a_failed_check_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Plan, "apply", lambda plan, model: net())
    with pytest.raises(PlanError, match="the final check failed"):
        searched(check=True)


@pytest.mark.parametrize(
    ("distance", "passes"),
    [
        (0.0, True),
        (0.9 * (ROUNDING * 2 + FLIPS * 0.01), True),
        (1.1 * (ROUNDING * 2 + FLIPS * 0.01), False),
    ],
    ids=["equal", "within", "beyond"],
)
@pytest.mark.parametrize("sign", [-1, 1], ids=["below", "above"])
def test_tolerance_is_on_root_mean_squares(distance: float, sign: int, passes: bool) -> None:
    """An output of root mean square 2, an error of 0.01."""
    check = FunctionalCheck(
        "held-out", 4, True, (0.01 + sign * distance) ** 2, 1e-4, 4.0, 100, 100
    )
    assert (check.fault is None) is passes
