"""Moves: plans reached from one plan by changes whose effects are known, more or fewer at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mixq.formats import Format
from mixq.search.limits import Limits
from mixq.search.problem import Problem
from mixq.search.refine.effects import Effects
from mixq.search.solve import solve_once

DOUBT: Final = 1.0
"""Standard errors that count against each change: of many, some look good by luck."""
_STEPS: Final = 14
_FACTOR: Final = 4.0


def moves(
    effects: Effects, problem: Problem, limits: Limits, most: int
) -> list[dict[str, Format]]:
    """Plans that are best by their effects, with ever fewer units changed; at most so many.

    The fewer changes, the better their effects add up: a trust region. It is made by a penalty on
    each change, doubled twice from step to step, so that each plan is the optimum of its number of
    changes; each is solved exactly.

    Args:
        effects: of changes of a plan that is within the limits.
        problem: of all choices.
        limits: on bytes, latency or both.
        most: plans; the one with all changes, the one with the fewest, and some between.
    """
    found: list[dict[str, Format]] = []
    seen: set[tuple[str, ...]] = set()
    largest = effects.largest
    penalties = [0.0, *(largest * _FACTOR**-step for step in reversed(range(_STEPS)))]
    for penalty in penalties:
        changed = effects.problem(problem, doubt=DOUBT, penalty=penalty)
        plan = solve_once(changed, limits).assignment
        if distance(plan, effects.assignment) == 0:
            break
        key = tuple(plan[unit].name for unit in problem.choices)
        if key not in seen:
            seen.add(key)
            found.append(dict(plan))
    return _spread(found, most)


def distance(plan: Mapping[str, Format], other: Mapping[str, Format]) -> int:
    """Units that have another format."""
    return sum(plan[unit] != other[unit] for unit in plan)


def _spread(plans: list[dict[str, Format]], most: int) -> list[dict[str, Format]]:
    """So many of the plans, the first and the last among them."""
    if len(plans) <= most:
        return plans
    places = {round(index * (len(plans) - 1) / (most - 1)) for index in range(most)}
    return [plans[place] for place in sorted(places)]
