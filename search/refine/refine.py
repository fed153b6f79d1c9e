"""Refine: changes of a plan measured around it, the best of them made, again and again.

Errors of units interact, so what a change does to the plan is not what it does to the original.
The additive model is taken again at the plan: every neighbour is measured with the rest of the
plan in place, the problem of these effects is solved exactly for several numbers of changes, and
the plans found are measured whole. A plan is moved to if it errs less on the data that the effects
were measured on, and on held-out data by more than the noise; what is only luck on the first does
not pass the second. Where errors add up, their optimum is the optimum, and nothing is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from mixq.search.choice import Choice
from mixq.search.choose import Accept
from mixq.search.limits import Limits
from mixq.search.problem import Problem
from mixq.search.refine.effects import Effects
from mixq.search.refine.moves import distance, moves
from mixq.search.refine.neighbours import neighbours
from mixq.search.session import Session
from mixq.search.trials import Proposal, Trial, paired_difference
from mixq.sensitivity.around import Change

ADDITIVE: Final = 0.02
"""Share by which a plan's error may differ from the sum of its units' to count as additive."""
PLANS: Final = 4
"""Plans measured whole in a round."""
PER_ITEM: Final = 1.5
"""Changes measured in a round, for each independent choice, up to `MOST_CHANGES`."""
MOST_CHANGES: Final = 120

Measure: TypeAlias = Callable[[Session, Trial, Sequence[Change]], Effects]
"""Measures changes of a trial's plan."""


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
        measure: tells the effects of changes.
    """

    rounds: int
    measure: Measure

    def of(
        self,
        session: Session,
        start: Trial,
        near: Sequence[Trial],
        limits: Limits,
        accept: Accept,
    ) -> Refined:
        """Move from a plan to better ones within the limits.

        Args:
            session: of the search.
            start: a measured plan.
            near: other measured plans under the same limits. If errors add up in all of them,
                nothing is measured.
            limits: on bytes, latency or both; every plan keeps them.
            accept: whether a measured plan keeps the other demands.
        """
        problem, best = session.problem, start
        trials: list[Trial] = []
        seen: list[Effects] = []
        rounds = 0 if all(map(adds_up, (start, *near))) else self.rounds
        for number in range(1, rounds + 1):
            most = min(MOST_CHANGES, round(PER_ITEM * len(problem.items)))
            changes = neighbours(problem, best.proposal.assignment, limits, most)
            effects = self.measure(session, best, changes)
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


def _proposals(effects: Effects, problem: Problem, limits: Limits, number: int) -> list[Proposal]:
    """The plans that effects speak for, with the most changes first.

    None, where no changes promise more than their noise: of a sum the standard error is at most
    the sum of the standard errors, which count against each change.
    """
    proposals = []
    for plan in moves(effects, problem, limits, PLANS):
        count = distance(plan, effects.assignment)
        name = f"refined {number}, {count} change{'s' if count > 1 else ''}"
        proposals.append(Proposal(name, "refined", plan))
    return proposals


def _better(best: Trial, tried: list[Trial], accept: Accept) -> Trial | None:
    """Of the plans that err less on calibration and on held-out data, the first by the former.

    Held-out errors have to differ by more than a standard error of the paired difference: plans
    were tried because calibration data spoke for them, so that little luck is needed elsewhere.
    """
    for trial in sorted(tried, key=lambda trial: trial.measured.error):
        gain = paired_difference(_judged(trial), _judged(best))
        if (
            trial.measured.error < best.measured.error
            and gain.error < -gain.error_se
            and accept(trial)
        ):
            return trial
    return None


def _judged(trial: Trial) -> tuple[float, ...]:
    """Errors of the samples that plans are compared by."""
    return trial.errors if trial.heldout_errors is None else trial.heldout_errors
