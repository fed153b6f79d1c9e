"""Moves: plans reached from one plan by changes whose effects are known, more or fewer at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from mixq.formats import Format
from mixq.search.limits import Limits
from mixq.search.problem import Problem
from mixq.search.race.relaxation import Relaxation
from mixq.search.refine.effects import Effects

DOUBT: Final = 1.0
"""Standard errors that count against each change: of many, some look good by luck."""


def moves(
    effects: Effects, problem: Problem, limits: Limits, most: int
) -> list[dict[str, Format]]:
    """Plans that are best by their effects, with ever fewer units changed; at most so many.

    The fewer changes, the better their effects add up: a trust region. The first plan makes as
    many changes as it likes, each of the next ones at most half of those of the one before; each
    is solved by HiGHS, and held to the limits exactly.

    Args:
        effects: of changes of a plan that is within the limits.
        problem: of all choices.
        limits: on bytes, latency or both.
        most: how many plans.
    """
    own = effects.assignment
    gains = dict.fromkeys(own.items(), 0.0)
    for change in effects.changed:
        gains |= dict.fromkeys(((unit, change.format) for unit in change.units), 0.0)
        gains[change.units[0], change.format] = effects.cautious(change, DOUBT)
    known = {
        unit: tuple(choice for choice in row if (unit, choice.format) in gains)
        for unit, row in problem.choices.items()
    }
    relaxation = Relaxation(replace(problem, choices=known))
    errors = relaxation.errors(gains)
    changed = np.array([float(fmt != own[units[0]]) for units, fmt in relaxation.columns])
    found: list[dict[str, Format]] = []
    count = len(problem.items)
    while count and len(found) < most:
        shares = relaxation.solve(errors, limits, whole=True, counted=changed, most=count)
        if shares is None:
            break
        taken = shares > 0.5
        plan = {
            unit: fmt
            for (units, fmt), take in zip(relaxation.columns, taken.tolist(), strict=True)
            if take
            for unit in units
        }
        count = round(float(changed[taken].sum()))
        if count and limits.allow(problem.evaluate(plan)):  # HiGHS is a millionth generous
            found.append({unit: plan[unit] for unit in own})
        count //= 2
    return found


def distance(plan: Mapping[str, Format], other: Mapping[str, Format]) -> int:
    """Units that have another format."""
    return sum(plan[unit] != other[unit] for unit in plan)
