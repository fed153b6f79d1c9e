"""Budget: what the user demands, its limits, and whether anything can meet it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from fractions import Fraction
from typing import Any, Final

from mixq.errors import InfeasibleError, UsageError
from mixq.search.exact.milp import minimise
from mixq.search.limits import Limits, Quantity
from mixq.search.problem import Problem

_OPTIONS: Final = {
    "compression": "--target-compression",
    "max_size_bytes": "--max-size-mb",
    "max_latency_s": "--max-latency-ms",
    "min_speedup": "--min-speedup",
    "max_memory_bytes": "--max-memory-mb",
    "max_error": "--max-error",
    "max_metric_drop": "--max-metric-drop",
}
UNKNOWN: Final = "known once measured"
_MAY_BE_ZERO: Final = ("max_error", "max_metric_drop")
_LIMITS: Final[dict[str, Quantity]] = {
    "compression": "weight_bytes",
    "max_size_bytes": "weight_bytes",
    "max_memory_bytes": "peak_memory_bytes",
    "max_latency_s": "latency_s",
    "min_speedup": "latency_s",
    "max_error": "error",
}
_NOUNS: Final[dict[str, str]] = {
    "weight_bytes": "the size",
    "latency_s": "the latency",
    "error": "the error",
    "peak_memory_bytes": "peak memory",
}


@dataclass(frozen=True, slots=True)
class Budget:
    """Demands, each optional; together they must all be met.

    Attributes:
        compression: original bytes over stored bytes, at least.
        max_size_bytes: stored bytes, at most.
        max_latency_s: time of one forward pass, at most [s].
        min_speedup: the original's latency over the plan's, at least.
        max_memory_bytes: peak memory of a process that loads and runs the plan's file, at most;
            by an upper bound that adds up (`CostTable.constant_memory_bytes`).
        max_error: summed output error, at most; may be 0.
        max_metric_drop: drop of the task metric, at most; may be 0. It is measured during the
            search, so it sets no limit here.

    Raises:
        UsageError: for a demand that is not a positive finite number.
    """

    compression: float | None = None
    max_size_bytes: int | None = None
    max_latency_s: float | None = None
    min_speedup: float | None = None
    max_memory_bytes: int | None = None
    max_error: float | None = None
    max_metric_drop: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is no demand."""
        for name, value in self.to_dict().items():
            zero = name in _MAY_BE_ZERO
            if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
                rule = "not negative" if zero else "positive"
                raise UsageError(
                    f"{_OPTIONS[name]} is {value:g}, but it must be finite and {rule}; "
                    "leave it out to demand nothing"
                )

    def to_dict(self) -> dict[str, float]:
        """The demands that were made, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def limits(self, problem: Problem, baseline_latency_s: float | None = None) -> Limits:
        """The limits on an assignment's totals that these demands amount to.

        Args:
            problem: what they are demanded of.
            baseline_latency_s: latency of the original; needed for `min_speedup` alone.

        Raises:
            UsageError: if `min_speedup` is demanded and the baseline is missing or not positive.
        """
        sizes: list[int] = []
        memory: int | None = None
        if self.compression is not None:
            # Exact: the largest integer whose compression does not fall below the demand.
            sizes.append(math.floor(problem.original_bytes / Fraction(self.compression)))
        if self.max_size_bytes is not None:
            sizes.append(math.floor(self.max_size_bytes))
        if self.max_memory_bytes is not None:
            memory = math.floor(self.max_memory_bytes)
            if problem.memory_is_bytes:
                sizes.append(memory - problem.constant_memory_bytes)
                memory = None
        times: list[float] = []
        if self.max_latency_s is not None:
            times.append(self.max_latency_s)
        if self.min_speedup is not None:
            times.append(_slowest(_baseline(baseline_latency_s), self.min_speedup))
        return Limits(
            weight_bytes=min(sizes, default=None),
            latency_s=min(times, default=None),
            error=self.max_error,
            peak_memory_bytes=memory,
        )


def check_feasible(
    problem: Problem,
    budget: Budget,
    baseline_latency_s: float | None = None,
    *,
    errors_add: bool = True,
) -> None:
    """Refuse a budget that no assignment meets; exact, also for demands taken together.

    Args:
        problem: what they are demanded of.
        budget: the demands.
        baseline_latency_s: latency of the original; needed for `min_speedup` alone.
        errors_add: hold added errors against `max_error`; else whole plans will be measured.

    Raises:
        InfeasibleError: naming every demand with its feasible range, in the units of the command
            line (1 MB is 10^6 bytes).
        UsageError: if `min_speedup` is demanded and the baseline is missing or not positive.
    """
    ranges = feasible_ranges(problem, budget, baseline_latency_s, errors_add=errors_add)
    if not errors_add:
        budget = replace(budget, max_error=None)
    limits = budget.limits(problem, baseline_latency_s)
    listed = ranges_text(ranges)
    impossible = [
        name
        for name, value in budget.to_dict().items()
        if name in _LIMITS and not _alone(problem, name, value, baseline_latency_s)
    ]
    if impossible:
        asked = ", ".join(_asked(name, budget.to_dict()[name]) for name in impossible)
        raise InfeasibleError(f"{asked} cannot be met; the feasible ranges are {listed}", ranges)
    hints = _conflicts(problem, limits)
    if hints:
        raise InfeasibleError(
            "the demands can each be met alone but not together; alone the feasible ranges are "
            f"{listed}; {'; '.join(hints)}",
            ranges,
        )


def feasible_ranges(
    problem: Problem,
    budget: Budget,
    baseline_latency_s: float | None = None,
    *,
    errors_add: bool = True,
) -> dict[str, str]:
    """The feasible range of every demand that is made, each by itself; arguments as above."""
    unknown = {"max_metric_drop"} | (set() if errors_add else {"max_error"})
    return {
        name: UNKNOWN if name in unknown else _range(problem, name, baseline_latency_s)
        for name in budget.to_dict()
    }


def ranges_text(ranges: Mapping[str, str]) -> str:
    """Feasible ranges in one line, by the names of the options, in their units."""
    return "; ".join(f"{_OPTIONS[name]}: {text}" for name, text in ranges.items())


def _alone(problem: Problem, name: str, value: float, baseline_latency_s: float | None) -> bool:
    demand: dict[str, Any] = {name: value}
    limits = Budget(**demand).limits(problem, baseline_latency_s)
    return all(limits.allow(problem.extreme(quantity)) for quantity in limits.given())


def _conflicts(problem: Problem, limits: Limits) -> list[str]:
    """For limits that exclude each other: what each costs given the others; else nothing."""
    if len(limits.given()) < 2:
        return []
    hints = []
    for name in limits.given():
        none: dict[str, Any] = {name: None}
        others = replace(limits, **none)
        try:
            least = getattr(minimise(problem, name, others).totals, name)
        except InfeasibleError:
            # Even without this limit the others exclude each other; they give the hints.
            continue
        if least <= getattr(limits, name):
            return []
        shift, unit = _unit(name)
        text = rounded(least, shift, up=True)
        hints.append(f"with the others met, {_NOUNS[name]} is at least {text}{unit}")
    return hints or ["no two of them leave room for the rest"]


def _range(problem: Problem, name: str, baseline_latency_s: float | None) -> str:
    """The values of one demand that some assignment has, rounded so that the ends are met."""
    quantity = _LIMITS[name]
    low = getattr(problem.extreme(quantity), quantity)
    high = getattr(problem.extreme(quantity, largest=True), quantity)
    if name == "compression":
        worst, best = problem.original_bytes / high, problem.original_bytes / low
        return f"{rounded(worst, up=False)} to {rounded(best, up=False)}"
    if name == "min_speedup":
        baseline_s = _baseline(baseline_latency_s)
        ends = [baseline_s / value if value > 0 else math.inf for value in (high, low)]
        return f"{rounded(ends[0], up=False)} to {rounded(ends[1], up=False)}"
    shift, unit = _unit(name)
    return f"{rounded(low, shift, up=True)} to {rounded(high, shift, up=True)}{unit}"


def _unit(name: str) -> tuple[int, str]:
    """Power of ten and name of the unit in which the command line takes a quantity."""
    if name.endswith("_bytes"):
        return -6, " MB"
    return (3, " ms") if name.endswith("_s") else (0, "")


def _asked(name: str, value: float) -> str:
    shift, unit = _unit(name)
    return f"{_OPTIONS[name]} {float(Decimal(repr(value)).scaleb(shift)):.6g}{unit}"


def rounded(value: float, shift: int = 0, *, up: bool) -> str:
    """Four digits of value x 10^shift, rounded up or down."""
    if not math.isfinite(value):
        return "any"
    context = Context(prec=4, rounding=ROUND_CEILING if up else ROUND_FLOOR)
    # Decimal, because 0.009 x 1000 is a little more than 9 in binary and would round up.
    return f"{float(context.create_decimal(Decimal(repr(value)).scaleb(shift))):g}"


def _baseline(baseline_latency_s: float | None) -> float:
    if baseline_latency_s is None or not 0 < baseline_latency_s < math.inf:
        raise UsageError(
            f"--min-speedup needs the original's latency, but it is {baseline_latency_s}; "
            "choose hardware that predicts one, or demand --max-latency-ms"
        )
    return baseline_latency_s


def _slowest(baseline_s: float, speedup: float) -> float:
    """The largest latency t for which the rounded baseline_s / t is at least `speedup` [s]."""
    latency_s = baseline_s / speedup
    while baseline_s / latency_s < speedup:
        latency_s = math.nextafter(latency_s, 0.0)
    return latency_s
