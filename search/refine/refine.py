"""Refine: changes of a plan measured around it, the best of them made, again and again.

Errors of units interact, so what a change does to the plan is not what it does to the original.
The additive model is taken again at the plan: every neighbour is measured with the rest of the
plan in place, the problem of these effects is solved exactly for several numbers of changes, and
the plans found are measured whole. A plan is moved to if it errs less both on the data that the
effects were measured on and on held-out data; what is only luck on the first does not pass the
second. Where the errors of the plan add up, its optimum is the optimum, and nothing is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from mixq.errors import FormatError, NonFiniteError
from mixq.formats import Format
from mixq.progress import track
from mixq.search.choose import Accept
from mixq.search.limits import Limits
from mixq.search.problem import Choice, Problem
from mixq.search.refine.effects import Effects
from mixq.search.refine.moves import distance, moves
from mixq.search.refine.neighbours import neighbours
from mixq.search.session import Session
from mixq.search.trials import Proposal, Trial
from mixq.sensitivity.around import Around, Change
from mixq.sensitivity.store import Store

STAGE: Final = "measuring changes of the plan"
ADDITIVE: Final = 0.02
"""Share by which a plan's error may differ from the sum of its units' to count as additive."""
PLANS: Final = 3
"""Plans measured whole in a round."""
PER_ITEM: Final = 1.5
"""Changes measured in a round, for each independent choice."""

Stores = Callable[[Mapping[str, Format]], Store]
"""Where the errors of changes of a plan are kept."""


@dataclass(frozen=True)
class Refined:
    """What became of a plan.

    Attributes:
        best: the plan that was moved to last, or the one that was begun with.
        trials: all plans measured on the way.
        effects: of the changes, one for each round.
    """

    best: Trial
    trials: tuple[Trial, ...] = ()
    effects: tuple[Effects, ...] = ()


@dataclass(frozen=True)
class Refinement:
    """How plans are refined.

    Attributes:
        rounds: at most so many; 0 leaves every plan as it is.
        stores: where effects are kept, so that an interrupted search goes on.
    """

    rounds: int
    stores: Stores

    def of(self, session: Session, start: Trial, limits: Limits, accept: Accept) -> Refined:
        """Move from a plan to better ones within the limits.

        Args:
            session: of the search.
            start: a measured plan.
            limits: on bytes, latency or both; every plan keeps them.
            accept: whether a measured plan keeps the other demands.
        """
        problem, best = session.problem, start
        trials: list[Trial] = []
        seen: list[Effects] = []
        for number in range(1, self.rounds + 1):
            if adds_up(best):
                break
            most = round(PER_ITEM * len(problem.items))
            changes = neighbours(problem, best.proposal.assignment, limits, most)
            effects = _measured(session, best, changes, self.stores(best.proposal.assignment))
            seen.append(effects)
            proposals = _proposals(effects, session.problem, limits, number)
            if not proposals:
                break
            tried = session.run(proposals)
            trials += tried
            better = _better(best, tried, accept)
            if better is None:
                break
            best = better
            problem = believed(problem, effects)
        return Refined(best, tuple(trials), tuple(seen))


def adds_up(trial: Trial) -> bool:
    """Whether a plan's error is the sum of its units', as far as that matters."""
    added = trial.totals.error
    return abs(trial.measured.error - added) <= ADDITIVE * added


def believed(problem: Problem, effects: Effects) -> Problem:
    """The problem with the errors that the effects speak of, where there are any."""
    errors = {(u, c.format): c.error for u, row in problem.choices.items() for c in row}
    for change in effects.changed:
        first, *others = change.units
        here = errors[first, effects.assignment[first]]
        errors[first, change.format] = here + effects.of(change).error
        for unit in others:
            errors[unit, change.format] = errors[unit, effects.assignment[unit]]

    def moved(unit: str, row: tuple[Choice, ...]) -> tuple[Choice, ...]:
        least = min(0.0, *(errors[unit, choice.format] for choice in row))
        return tuple(replace(c, error=errors[unit, c.format] - least) for c in row)

    return replace(problem, choices={u: moved(u, row) for u, row in problem.choices.items()})


def _measured(session: Session, trial: Trial, changes: list[Change], store: Store) -> Effects:
    """Effects of the changes on calibration data, those that the store has not among them."""
    assignment = trial.proposal.assignment
    missing = [c for c in changes if store.get("+".join(c.units), c.format.name) is None]
    if missing:
        around = Around(session.references["calibration"], session.rounder, assignment)
        ordered, done = around.ordered(missing), len(changes) - len(missing)
        for change in track(ordered, STAGE, len(changes), session.progress, done=done):
            try:
                errors = around.errors(change)
            except (FormatError, NonFiniteError):  # no plan for it, then
                continue
            store.put("+".join(change.units), change.format.name, errors)
    found = {c: store.get("+".join(c.units), c.format.name) for c in changes}
    known = {change: tuple(errors) for change, errors in found.items() if errors is not None}
    return Effects(assignment, trial.errors, known)


def _proposals(effects: Effects, problem: Problem, limits: Limits, number: int) -> list[Proposal]:
    """The plans that effects speak for by more than their noise, with the most changes first."""
    proposals = []
    for plan in moves(effects, problem, limits, PLANS):
        promised = effects.together(plan)
        if promised.error < -promised.error_se:
            count = distance(plan, effects.assignment)
            proposals.append(Proposal(f"refined {number}, {count} changes", "refined", plan))
    return proposals


def _better(best: Trial, tried: list[Trial], accept: Accept) -> Trial | None:
    """Of the plans that err less on calibration and on held-out data, the first by the former."""
    for trial in sorted(tried, key=lambda trial: trial.measured.error):
        if (
            trial.measured.error < best.measured.error
            and trial.judged_error < best.judged_error
            and accept(trial)
        ):
            return trial
    return None
