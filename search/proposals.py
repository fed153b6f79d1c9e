"""Proposals: the plans that are worth measuring, in a fixed order.

Errors of units do not simply add, so the optimum of the added errors is one proposal among
several: the others are optima of the same budget under *tilted* errors, raised to a power (below
one it evens out the large ones, above one it fears them) or scaled unit by unit at random. Each
is solved exactly and so keeps the budget; measuring them tells which way the model departs from
additivity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import count
from typing import Final

import numpy as np

from mixq.formats import FLOAT_WIDTHS, Format
from mixq.search.choice import Choice
from mixq.search.limits import Limits
from mixq.search.problem import Problem
from mixq.search.trials import Proposal, Tilt

Solve = Callable[[Problem, Limits], Mapping[str, Format]]

POWERS: Final = (0.75, 1.5, 0.5, 2.0)
LOG_SPREAD: Final = 0.5
"""Standard deviation of the logarithm of the random factors."""


def uniform_proposals(problem: Problem) -> list[Proposal]:
    """One plan for each narrow width: every unit in it, or in the next wider one it may take."""
    widths = {c.format.bits for choices in problem.choices.values() for c in choices}
    proposals = []
    for width in sorted(widths - set(FLOAT_WIDTHS), reverse=True):
        assignment = {unit: _nearest(choices, width) for unit, choices in problem.choices.items()}
        # A tie takes the widest of what its units would take alone.
        for tie in problem.ties:
            common = set.intersection(*({c.format for c in problem.choices[u]} for u in tie))
            wide = [fmt for fmt in common if fmt.bits >= max(assignment[u].bits for u in tie)]
            listed = [c.format for c in problem.choices[tie[0]] if c.format in (wide or common)]
            chosen = min(listed, key=lambda fmt: fmt.bits)
            assignment.update(dict.fromkeys(tie, chosen))
        proposals.append(Proposal(f"uniform {width}", "uniform", assignment))
    return proposals


def budget_proposals(
    problem: Problem, limits: Limits, optimum: Mapping[str, Format], solve: Solve, *,
    trials: int, seed: int,
) -> list[Proposal]:  # fmt: skip
    """The additive optimum and up to `trials` - 1 other plans that keep the same limits.

    Args:
        problem: units and their choices.
        limits: on bytes and latency, which every proposal keeps; errors are measured.
        optimum: the additive optimum under `limits`.
        solve: the exact solver.
        trials: number of proposals, the optimum included.
        seed: of the random tilts.
    """
    proposals = [Proposal("optimum", "additive", optimum)]
    seen = {_key(optimum)}
    attempts = 4 * trials
    for tilt, _ in zip(_tilts(problem, seed), range(attempts), strict=False):
        if len(proposals) >= trials:
            break
        assignment = solve(tilted(problem, tilt), limits)
        if _key(assignment) not in seen:
            seen.add(_key(assignment))
            proposals.append(Proposal(f"optimum ({tilt.name})", "tilted", assignment, tilt))
    return proposals


def _tilts(problem: Problem, seed: int) -> Iterator[Tilt]:
    for power in POWERS:
        yield Tilt(f"errors^{power:g}", power)
    for index in count():
        chance = np.random.default_rng([seed, index])
        factors = chance.lognormal(0, LOG_SPREAD, len(problem.choices))
        yield Tilt(f"tilt {index}", factors=tuple(factors.tolist()))


def tilted(problem: Problem, tilt: Tilt) -> Problem:
    """The problem with tilted errors, the largest of which is 1 before its factor."""
    largest = max(c.error for choices in problem.choices.values() for c in choices) or 1.0
    # By name order, so that a model whose units come in another order is tilted the same way.
    order = {unit: index for index, unit in enumerate(sorted(problem.choices))}

    def change(unit: str, choice: Choice) -> Choice:
        factor = tilt.factors[order[unit]] if tilt.factors else 1.0
        return replace(choice, error=factor * (choice.error / largest) ** tilt.power)

    return replace(
        problem,
        choices={
            unit: tuple(change(unit, choice) for choice in choices)
            for unit, choices in problem.choices.items()
        },
    )


def _nearest(choices: tuple[Choice, ...], width: int) -> Format:
    """The first format of the width; without any, of the next wider, or else of the widest."""
    formats = [choice.format for choice in choices]
    wide = [fmt for fmt in formats if fmt.bits >= width]
    if wide:
        return min(wide, key=lambda fmt: fmt.bits)
    return max(formats, key=lambda fmt: fmt.bits)


def _key(assignment: Mapping[str, Format]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((unit, fmt.name) for unit, fmt in assignment.items()))
