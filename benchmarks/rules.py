"""Allocation rules of other systems, re-implemented to choose from one table under a byte budget.

Each takes a problem and the most bytes, and gives a plan that keeps them. They differ in the order
in which they take bits away or give them back, not in what they know: every score is the measured
error of the table, which is better than the proxy that most of the systems have. Where a system
may end above its budget, the rule here keeps the best plan that it saw within.

*Two widths*: a rule that knows a low and a high width runs between the two neighbours of 8, 4 and
2 bits between which the budget lies; all others may mix every width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from mixq.formats import Format
from mixq.search.choice import Choice
from mixq.search.exact.stage import Stage
from mixq.search.problem import Problem

Plan = dict[str, Format]
Rule = Callable[[Problem, int], Plan]


def score_order(problem: Problem, budget: int) -> Plan:
    """NNCF (OpenVINO) and Olive's SNR: the least sensitive units first, whatever their size.

    All start at the high width; in order of growing error at the low one they are lowered until
    the rest fits (NNCF's `ratio`, and Olive's from the other end, are scanned for the best that
    fits). Two widths.
    """
    return _two_widths(problem, budget, lambda high, low: low.error)


def density(problem: Problem, budget: int) -> Plan:
    """mlx-lm's dynamic_quant and Olive's kld_gradient: a threshold on error per weight.

    Units above the threshold keep the high width; the threshold is the smallest one that fits
    (mlx-lm bisects it to a thousandth of the range, here it is exact). Two widths.
    """
    return _two_widths(
        problem,
        budget,
        lambda high, low: (low.error - high.error) / (high.weight_bytes - low.weight_bytes),
    )


def lagrangian(problem: Problem, budget: int) -> Plan:
    """llama.cpp PR #15550 (not merged), without its boosts: a multiplier, then a greedy fill.

    Every unit takes the corner of its convex hull that is best at the multiplier, which is
    bisected until the plan fits; what remains is filled by the step of most error per byte.
    """
    stages = [Stage.of(item) for item in problem.items]
    corners = [stage.convex() for stage in stages]
    room = budget - problem.other_bytes

    def taken(rate: float) -> list[int]:
        """Number of steps along each hull that save more than `rate` per byte."""
        return [
            sum(stage.rate(here, there) > rate for here, there in pairwise(corner))
            for stage, corner in zip(stages, corners, strict=True)
        ]

    def stored(at: Sequence[int]) -> int:
        return sum(
            int(stage.weight_bytes[corner[k]])
            for stage, corner, k in zip(stages, corners, at, strict=True)
        )

    low = 0.0
    high = max((stage.rate(*step) for stage, c in zip(stages, corners, strict=True)
                for step in pairwise(c)), default=0.0)  # fmt: skip
    if stored(taken(low)) <= room:
        high = low
    for _ in range(40):
        middle = (low + high) / 2
        if stored(taken(middle)) <= room:
            high = middle
        else:
            low = middle
    at = taken(high)
    while True:
        steps = []
        for j, (stage, corner) in enumerate(zip(stages, corners, strict=True)):
            if at[j] + 1 < len(corner):
                here, there = corner[at[j]], corner[at[j] + 1]
                if stage.weight_bytes[there] - stage.weight_bytes[here] <= room - stored(at):
                    steps.append((stage.rate(here, there), -j))
        if not steps:
            break
        at[-max(steps)[1]] += 1
    picks = [
        int(stage.kept[corner[k]]) for stage, corner, k in zip(stages, corners, at, strict=True)
    ]
    return problem.picked(picks)


def sorted_prefix(problem: Problem, budget: int) -> Plan:
    """AIMET's mixed precision: a prefix of the list of all (unit, width), least harm first.

    Every unit takes the narrowest of its entries in the prefix, which is the shortest that fits;
    the accuracy that AIMET sorts by is the measured error here.
    """
    plan = {unit: _rows(choices)[0] for unit, choices in problem.choices.items()}
    entries = [
        (choice.error, unit, depth)
        for unit, choices in problem.choices.items()
        for depth, choice in enumerate(_rows(choices))
        if depth
    ]
    for _, unit, depth in sorted(entries):
        if _stored(problem, plan) <= budget:
            break
        narrower = _rows(problem.choices[unit])[depth]
        if narrower.weight_bytes < plan[unit].weight_bytes:
            plan[unit] = narrower
    return _formats(plan)


def min_max(problem: Problem, budget: int) -> Plan:
    """Model Optimizer's auto_quantize by KL divergence: the least largest error.

    Every unit takes its smallest format whose error is below a threshold that is bisected. Model
    Optimizer returns the last iterate, which may not fit; here it is the best one that does.
    """

    def below(threshold: float) -> dict[str, Choice]:
        return {
            unit: min(
                (c for c in choices if c.error <= threshold),
                key=lambda c: c.weight_bytes,
                default=_rows(choices)[0],
            )
            for unit, choices in problem.choices.items()
        }

    thresholds = sorted({c.error for choices in problem.choices.values() for c in choices})
    low, high = 0, len(thresholds) - 1
    while low < high:
        middle = (low + high) // 2
        if _stored(problem, below(thresholds[middle])) <= budget:
            high = middle
        else:
            low = middle + 1
    return _formats(below(thresholds[high]))


RULES: Mapping[str, Rule] = {
    "score order (NNCF, Olive SNR)": score_order,
    "density threshold (mlx-lm, Olive kld_gradient)": density,
    "Lagrangian + fill (llama.cpp PR #15550)": lagrangian,
    "sorted prefix (AIMET)": sorted_prefix,
    "min-max bisection (ModelOpt kl_div)": min_max,
}


def _two_widths(problem: Problem, budget: int, score: Callable[[Choice, Choice], float]) -> Plan:
    """The shortest prefix, by score, of units at the low width such that all fit."""
    widths = sorted({c.format.bits for row in problem.choices.values() for c in row})[::-1]
    plan = {unit: _at(choices, widths[0]) for unit, choices in problem.choices.items()}
    for high, low in pairwise(widths):
        pairs = {unit: (_at(row, high), _at(row, low)) for unit, row in problem.choices.items()}
        plan = {unit: pair[0] for unit, pair in pairs.items()}
        order = sorted(
            (unit for unit, pair in pairs.items() if pair[1].weight_bytes < pair[0].weight_bytes),
            key=lambda unit: (score(*pairs[unit]), unit),
        )
        for unit in order:
            if _stored(problem, plan) <= budget:
                return _formats(plan)
            plan[unit] = pairs[unit][1]
    return _formats(plan)


def _rows(choices: Sequence[Choice]) -> list[Choice]:
    """By falling width."""
    return sorted(choices, key=lambda choice: -choice.format.bits)


def _at(choices: Sequence[Choice], width: int) -> Choice:
    """A unit's choice at a width, or at the next wider that it has."""
    wide = [choice for choice in _rows(choices) if choice.format.bits >= width]
    return wide[-1] if wide else _rows(choices)[0]


def _stored(problem: Problem, plan: Mapping[str, Choice]) -> int:
    return problem.other_bytes + sum(choice.weight_bytes for choice in plan.values())


def _formats(plan: Mapping[str, Choice]) -> Plan:
    return {unit: choice.format for unit, choice in plan.items()}
