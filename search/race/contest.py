"""Contest: which formats of which units a plan may take, as far as is known, and what is at stake.

Errors are drawn as they may be, each about what is believed of it; a plan is made from each draw.
What no plan takes need not be known better. What some plans take and others do not decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from mixq.search.analysis import Layout
from mixq.search.budget import Budget
from mixq.search.limits import Limits
from mixq.search.problem import Problem
from mixq.search.race.draws import Vector, lognormal
from mixq.search.race.evidence import Belief, Entry
from mixq.search.race.relaxation import Relaxation

DRAWS: Final = 12
COMPRESSIONS: Final = (4, 6, 8, 10, 12)
"""What plans are looked at where no size is demanded."""
_SOME: Final = 1e-6
"""Shares below this are rounding of the linear program."""


@dataclass(frozen=True)
class Contest:
    """What plans from many draws have in common, and what not.

    Attributes:
        taken: entries that some plan takes.
        contested: those that another plan does not take.
        regret: share of added error by which a plan from a draw is worse, on average.
    """

    taken: frozenset[Entry]
    contested: frozenset[Entry]
    regret: float


def contest(
    problem: Problem, beliefs: Mapping[Entry, Belief], decisions: Sequence[Limits]
) -> Contest:
    """Plans from `DRAWS` draws of the errors, under each of the limits in turn.

    Errors are drawn from log-normal distributions about what is believed, the same draws in every
    process.

    Args:
        problem: whose errors are those believed.
        beliefs: of every entry of the problem.
        decisions: limits; the regret is the worst of them.
    """
    relaxation = Relaxation(problem)
    entries = [(unit, choice.format) for unit, row in problem.choices.items() for choice in row]
    means = np.array([beliefs[entry].error for entry in entries])
    spreads = np.array([beliefs[entry].spread for entry in entries])
    chance = np.random.default_rng(0)
    errors, *draws = (
        relaxation.errors(dict(zip(entries, row.tolist(), strict=True)))
        for row in (means, *(lognormal(chance, means, spreads) for _ in range(DRAWS)))
    )
    taken: set[Entry] = set()
    contested: set[Entry] = set()
    regret = 0.0
    for limits in decisions:
        plan = relaxation.solve(errors, limits)
        others = [x for x in (relaxation.solve(draw, limits) for draw in draws) if x is not None]
        if plan is None or not others:
            continue
        regret = max(regret, _regret(plan, others, errors))
        shares = np.array([plan, *others])
        for (names, fmt), most, least in zip(
            relaxation.columns, shares.max(axis=0), shares.min(axis=0), strict=True
        ):
            if most > _SOME:
                taken |= {(name, fmt) for name in names}
                if least < 1 - _SOME:
                    contested |= {(name, fmt) for name in names}
    return Contest(frozenset(taken), frozenset(contested), regret)


def decisions(layout: Layout, problem: Problem, budget: Budget | None) -> list[Limits]:
    """The limits that a plan has to keep; several sizes where none is demanded."""
    limits = Limits()
    if budget is not None:
        limits = replace(budget.limits(problem, layout.costs.baseline_latency_s), error=None)
    if limits.objective == "error":
        return [limits]
    smallest = problem.extreme("weight_bytes").weight_bytes
    sizes = [problem.original_bytes // compression for compression in COMPRESSIONS]
    return [Limits(weight_bytes=size) for size in sizes if size >= smallest]


def _regret(plan: Vector, others: Sequence[Vector], errors: Vector) -> float:
    least = float(plan @ errors)
    if least <= 0:
        return 0.0
    return math.fsum(max(float(other @ errors) / least - 1, 0.0) for other in others) / len(others)
