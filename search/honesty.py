"""Honesty: which layers get slower, what bounds the speed-up, and where none is to be expected."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mixq.cost.table import CostTable, UnitCost
from mixq.files import one_line
from mixq.formats import Format

LISTED: Final = 5
"""Slower layers that are named, the worst first."""
ALIKE: Final = 0.1
"""Share of a plan's time below which another choice of kernels is not worth a word."""
W32: Final = Format(32)
BOUNDS: Final = ("compute", "memory", "unpack", "launch")
"""What `UnitCost.reason` says a call is bound by, as `compute-bound`."""


@dataclass(frozen=True)
class Slower:
    """A layer that takes longer than in 32 bits.

    Attributes:
        lost_s: by how much.
        ratio: how many times as long.
    """

    unit: str
    format: Format
    lost_s: float
    ratio: float
    kernel: str
    reason: str

    def __str__(self) -> str:
        ratio = "it took no time" if math.isinf(self.ratio) else f"{self.ratio:.2f}x"
        return f"{one_line(self.unit)} ({self.format.name}, {ratio}, {self.kernel}: {self.reason})"


def slower_units(costs: CostTable, assignment: Mapping[str, Format]) -> list[Slower]:
    """The layers that take longer than in 32 bits, those that lose most time first."""
    found = []
    for unit, fmt in assignment.items():
        own, base = costs.cost(unit, fmt), costs.cost(unit, W32)
        if own.latency_s > base.latency_s:
            ratio = own.latency_s / base.latency_s if base.latency_s else math.inf
            lost_s = own.latency_s - base.latency_s
            found.append(Slower(unit, fmt, lost_s, ratio, own.kernel, own.reason))
    return sorted(found, key=lambda item: (-item.lost_s, item.unit))


def slower_note(costs: CostTable, assignment: Mapping[str, Format]) -> str | None:
    """How many layers get slower, and the worst of them; None if none does."""
    slower = slower_units(costs, assignment)
    if not slower:
        return None
    more = len(slower) - LISTED
    named = "; ".join(map(str, slower[:LISTED])) + (f"; and {more} more" if more > 0 else "")
    verb = "layer is" if len(slower) == 1 else "layers are"
    lost_s = math.fsum(item.lost_s for item in slower)
    return (
        f"{len(slower)} of {len(assignment)} {verb} slower than in 32 bits on {costs.hardware} "
        f"with {costs.runtime}, by {_ms(lost_s)} together: {named}"
    )


def bound_note(costs: CostTable, assignment: Mapping[str, Format]) -> str | None:
    """What the speed-up is bounded by, with numbers; None if no time is predicted.

    By Amdahl's law (AFIPS 1967) it cannot exceed the 32-bit time over what is left of that if
    weights cost nothing; nor, with the kernels that there are, what every layer's fastest format
    gives.
    """
    baseline_s, own_s = costs.baseline_latency_s, costs.latency_s(assignment)
    if baseline_s <= 0 or own_s <= 0:
        return None
    fastest_s = costs.other_latency_s + math.fsum(
        min(cost.latency_s for cost in prices.values()) for prices in costs.entries.values()
    )
    other = costs.other_latency_s / baseline_s
    limit = "" if other == 0 else f" and {1 / other:.3g}x if weights cost nothing"
    found = costs.speedup_interval(assignment)
    between = "" if found is None else f" (80%: {found.low:.3g} to {found.high:.3g})"
    sentence = (
        f"predicted speed-up {baseline_s / own_s:.3g}x{between}; at most "
        f"{baseline_s / max(fastest_s, 1e-300):.3g}x with any of the formats that were offered"
        f"{limit}: {other:.0%} of the 32-bit time is in operations without weights"
    )
    shares = _shares(costs, assignment, own_s)
    return sentence + (f"; of the plan's time {shares}" if shares else "")


def none_note(costs: CostTable, assignment: Mapping[str, Format]) -> str | None:
    """That no speed-up is to be expected, and why; None if one is predicted."""
    baseline_s, own_s = costs.baseline_latency_s, costs.latency_s(assignment)
    if own_s < baseline_s or baseline_s <= 0:
        return None
    quantized = {unit: fmt for unit, fmt in assignment.items() if fmt != W32}
    reasons = []
    if not quantized:
        reasons.append("every layer stays in 32 bits")
    unpacked = [u for u, fmt in quantized.items() if "dequantize" in costs.cost(u, fmt).kernel]
    if unpacked:
        reasons.append(
            f"{len(unpacked)} of {len(quantized)} narrower layers have no kernel for their format "
            f"in {costs.runtime} and are dequantized on every pass"
        )
    slower = [item for item in slower_units(costs, assignment) if item.unit not in unpacked]
    if slower:
        bounds = Counter(item.reason for item in slower).most_common(1)[0][0]
        reasons.append(
            f"{len(slower)} are slower with their low-bit kernels, most of them {bounds}, where "
            "32 bits compute as fast or faster"
        )
    same = len(quantized) - len(unpacked) - len(slower)
    if quantized and same and not (unpacked or slower):
        reasons.append(f"{same} narrower layers take as long as in 32 bits")
    if quantized:
        reasons.append("the plan is smaller, not faster")
    return (
        f"no speed-up expected here: {_ms(own_s)} predicted against {_ms(baseline_s)} in 32 bits; "
        f"{'; '.join(reasons)}"
    )


def floats_note(
    costs: CostTable, exact: CostTable, assignment: Mapping[str, Format]
) -> str | None:
    """What the plan takes where an exporter may not round the activations; None if as long.

    Args:
        costs: with the kernels that round them.
        exact: with those that leave them floats.
        assignment: the plan's formats.
    """
    own_s, exact_s = costs.latency_s(assignment), exact.latency_s(assignment)
    if exact_s <= (1 + ALIKE) * own_s:
        return None
    return (
        f"{_ms(own_s)} is with kernels that round activations to 8 bits; mixq export keeps floats "
        f"in layers where rounding would move the outputs by more than 2%, up to {_ms(exact_s)} "
        "if in all: mixq bench --hardware says what the file takes, and --option activations=int8 "
        "rounds everywhere"
    )


def latency_notes(
    costs: CostTable, assignment: Mapping[str, Format], exact: CostTable | None = None
) -> list[str]:
    """What a plan says of its time: none expected, what bounds it, which layers are slower.

    Args:
        costs: prices.
        assignment: the plan's formats.
        exact: the same with activations that stay floats, if that was measured.
    """
    notes = (
        none_note(costs, assignment),
        bound_note(costs, assignment),
        slower_note(costs, assignment),
        None if exact is None else floats_note(costs, exact, assignment),
    )
    return [note for note in notes if note is not None]


def _shares(costs: CostTable, assignment: Mapping[str, Format], own_s: float) -> str:
    """`40% is compute-bound, 20% memory-bound`: where the time of layers goes."""
    sums: dict[str, float] = {}
    for unit, fmt in assignment.items():
        cost = costs.cost(unit, fmt)
        bound = _bound(cost)
        if bound is not None:
            sums[bound] = sums.get(bound, 0.0) + cost.latency_s
    ranked = sorted(sums.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{value / own_s:.0%} {bound}" for bound, value in ranked if value > 0)


def _bound(cost: UnitCost) -> str | None:
    if "dequantize" in cost.kernel:
        return "is spent on layers that are dequantized"
    return next((f"is {name}-bound" for name in BOUNDS if f"{name}-bound" in cost.reason), None)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"
