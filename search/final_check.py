"""FinalCheck: the packed model run once more, and the plan's promises on the chip looked through.

A plan's errors were measured with dequantized weights put into the original model. What is
deployed is the packed model that `plan.apply` gives: here it is run on data that the search never
chose by, and has to give the same error from exactly the bytes that were predicted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from mixq.batch import call
from mixq.calibration import Calibration
from mixq.errors import PlanError
from mixq.files import one_line
from mixq.formats import Format
from mixq.graph.evaluating import evaluating
from mixq.graph.state import stored_tensors
from mixq.plan import Plan
from mixq.plan_check import check_plan
from mixq.sensitivity.compare import Evaluate
from mixq.sensitivity.metrics.weighted import Weighted

if TYPE_CHECKING:
    from torch import nn

    from mixq.search.analysis import Layout
    from mixq.search.result import SearchResult

ROUNDING: Final = 2e-5
"""Share of the output's root mean square by which two computations of it may differ: 1e-5 that
equalization may move it, and 80 roundings to float32 (2^-23 each) that all fall on one side."""
FLIPS: Final = 1e-2
"""Share of the root mean squared error that may differ besides: where activations are rounded to
8 bits, one rounding to float32 can move a code by a whole step."""
LONGEST_LIST: Final = 5
"""Layers that a line names."""


@dataclass(frozen=True)
class FunctionalCheck:
    """Whether the packed model is the one that was measured.

    Attributes:
        data: `held-out`, or `calibration` where nothing is held out.
        finite: whether no output is NaN or infinite.
        output_mse: of the packed model; None if not finite.
        measured_output_mse: by the search, on the same samples.
        output_power: mean square of the original's output.
        stored_bytes: of all tensors of the packed model.
        predicted_bytes: by the plan.
    """

    data: str
    samples: int
    finite: bool
    output_mse: float | None
    measured_output_mse: float
    output_power: float
    stored_bytes: int
    predicted_bytes: int

    @property
    def fault(self) -> str | None:
        """What is wrong, in words; None if nothing is."""
        if self.output_mse is None:
            return f"an output of the packed model on {self.data} data is NaN or infinite"
        # Distances obey the triangle inequality, and mean squared errors are their squares.
        ours, theirs = math.sqrt(self.output_mse), math.sqrt(self.measured_output_mse)
        allowed = ROUNDING * math.sqrt(self.output_power) + FLIPS * theirs
        if abs(ours - theirs) > allowed:
            return (
                f"the packed model has output error {self.output_mse:.6g} on {self.data} data "
                f"where the search measured {self.measured_output_mse:.6g}"
            )
        if self.stored_bytes != self.predicted_bytes:
            return (
                f"the packed model stores {self.stored_bytes:,} bytes where "
                f"{self.predicted_bytes:,} were predicted"
            )
        return None


@dataclass(frozen=True)
class PerformanceCheck:
    """What the plan promises on its chip.

    Attributes:
        latency_s, baseline_latency_s, uniform_8_latency_s: predicted of one forward pass, of the
            plan, in 32 bits and in 8 bits everywhere (None if that is no candidate).
        kept: the demands with what is reached, in words.
        broken: the first demand that is not kept, in words; None if all are.
        slower: layers that take longer than in 32 bits, with the ratio, the worst first.
    """

    hardware: str
    latency_s: float
    baseline_latency_s: float
    uniform_8_latency_s: float | None
    kept: tuple[str, ...]
    broken: str | None
    slower: Mapping[str, float]


@dataclass(frozen=True)
class FinalCheck:
    """How a search's result stood the test."""

    functional: FunctionalCheck
    performance: PerformanceCheck

    @property
    def passed(self) -> bool:
        """Whether the packed model is what was measured, and every demand is kept."""
        return self.functional.fault is None and self.performance.broken is None

    @property
    def lines(self) -> list[str]:
        """What was found, a line each."""
        f, p = self.functional, self.performance
        speed = f"{p.latency_s * 1e3:.4g} ms predicted on {p.hardware}"
        speed += f", {_ratio(p.baseline_latency_s, p.latency_s)} as fast as 32 bits"
        if p.uniform_8_latency_s is not None:
            speed += f", {_ratio(p.uniform_8_latency_s, p.latency_s)} as fast as 8 bits everywhere"
        named = [f"{one_line(name)} ({ratio:.2f}x)" for name, ratio in p.slower.items()]
        more = len(named) - LONGEST_LIST
        rest = f" and {more} more" if more > 0 else ""
        slower = f"slower than in 32 bits: {', '.join(named[:LONGEST_LIST])}{rest}"
        return [
            f.fault
            or f"the packed model runs on {f.samples} {f.data} samples with output error "
            f"{f.output_mse:.4g}, as measured, from {f.stored_bytes:,} bytes, as predicted",
            *([] if p.broken is None else [p.broken]),
            *p.kept,
            speed,
            slower if named else "no layer is slower than in 32 bits",
        ]

    def require(self) -> None:
        """Refuse a result that did not pass.

        Raises:
            PlanError: naming the first fault.
        """
        fault = self.functional.fault or self.performance.broken
        if fault is not None:
            raise PlanError(
                f"the final check failed: {fault}; no plan is written, please report it with the "
                "command that gave it (--no-check leaves the check out)"
            )

    def to_dict(self) -> dict[str, Any]:
        """The check as JSON values."""
        return {"passed": self.passed, **asdict(self)}


def final_check(
    result: SearchResult,
    model: nn.Module,
    calibration: Calibration,
    evaluate: Evaluate | None = None,
) -> FinalCheck:
    """Run the packed model of a search's plan, and look through what the plan promises.

    Args:
        result: of the search.
        model: that was searched.
        calibration: that it was searched on, whole; its held-out part is used.
        evaluate: that judged plans, if any; it says which way its metric is better.

    Raises:
        PlanError: if the plan cannot be applied.
    """
    return FinalCheck(
        functional=_functional(result, model, calibration),
        performance=_performance(result.plan, result.layout, evaluate),
    )


def _functional(
    result: SearchResult, model: nn.Module, calibration: Calibration
) -> FunctionalCheck:
    plan = result.plan
    tuning, heldout = calibration.split()
    expected = plan.measured.heldout_output_mse
    if expected is None or heldout is None:
        expected, heldout = plan.measured.output_mse, None
    data = tuning if heldout is None else heldout
    packed = plan.apply(model)
    squares = Weighted(weights=plan.error_metric.outputs or None)
    errors: list[float] = []
    for batch in data.batches:
        with evaluating(model):
            reference = squares.pick(call(model, batch))
        with evaluating(packed):
            outputs = squares.pick(call(packed, batch))
        errors += squares.errors(outputs, reference, batch).tolist()
    finite = all(map(math.isfinite, errors))
    return FunctionalCheck(
        data="calibration" if heldout is None else "held-out",
        samples=data.samples,
        finite=finite,
        output_mse=math.fsum(errors) / len(errors) if finite else None,
        measured_output_mse=expected,
        output_power=result.sensitivity.output_power,
        stored_bytes=sum(item.stored_bytes for item in stored_tensors(packed)),
        predicted_bytes=plan.predicted.weight_bytes,
    )


def _performance(plan: Plan, layout: Layout, evaluate: Evaluate | None) -> PerformanceCheck:
    kept: list[str] = []
    broken = None
    try:
        kept += [sentence for sentence in check_plan(plan) if " demanded, " in sentence]
        kept += _metric_drop(plan, evaluate)
    except PlanError as error:
        broken = str(error)
    uniform_8 = plan.uniform.get("8")
    costs = layout.costs
    ratios = {
        unit: costs.cost(unit, fmt).latency_s / costs.cost(unit, Format(32)).latency_s
        for unit, fmt in plan.assignment.items()
        if costs.cost(unit, fmt).latency_s > costs.cost(unit, Format(32)).latency_s > 0
    }
    return PerformanceCheck(
        hardware=plan.hardware.name,
        latency_s=plan.predicted.latency_s,
        baseline_latency_s=plan.predicted.baseline_latency_s,
        uniform_8_latency_s=None if uniform_8 is None else uniform_8.latency_s,
        kept=tuple(kept),
        broken=broken,
        slower=dict(sorted(ratios.items(), key=lambda item: -item[1])),
    )


def _metric_drop(plan: Plan, evaluate: Evaluate | None) -> list[str]:
    """The demand on the headline metric, which stands first in a plan."""
    demanded = plan.budget.get("max_metric_drop")
    if demanded is None:
        return []
    name, value = next(iter(plan.measured.metric.items()))
    change = plan.measured.original_metric[name] - value
    drop = change if getattr(evaluate, "higher_is_better", True) else -change
    if drop > demanded:
        raise PlanError(
            f"the plan demands max_metric_drop {demanded:g}, but {name} drops by {drop:g}"
        )
    return [f"max_metric_drop {demanded:g} demanded, {drop:.4g} reached ({one_line(name)})"]


def _ratio(slow_s: float, fast_s: float) -> str:
    return f"{slow_s / fast_s:.2f}x" if fast_s > 0 else "infinitely"
