"""Effects: what single changes of a plan do to its error, sample by sample."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from mixq.formats import Format
from mixq.search.problem import Choice, Problem
from mixq.sensitivity.around import Change
from mixq.sensitivity.estimate import Estimate


@dataclass(frozen=True)
class Effects:
    """Errors of one plan and of its changed versions on the same samples.

    Attributes:
        assignment: the plan.
        errors: of the plan, by sample.
        changed: of each change, by sample.
    """

    assignment: Mapping[str, Format]
    errors: tuple[float, ...]
    changed: Mapping[Change, tuple[float, ...]]

    def of(self, change: Change) -> Estimate:
        """Mean difference that a change makes, with its standard error."""
        pairs = zip(self.changed[change], self.errors, strict=True)
        return Estimate.of([after - before for after, before in pairs])

    def together(self, assignment: Mapping[str, Format]) -> Estimate:
        """What all changes to another plan make if they add up; a plan of changes known here."""
        differences = [0.0] * len(self.errors)
        for change, errors in self.changed.items():
            if all(assignment[u] == change.format for u in change.units):
                for index, (after, before) in enumerate(zip(errors, self.errors, strict=True)):
                    differences[index] += after - before
        return Estimate.of(differences)

    def problem(self, problem: Problem, *, doubt: float, penalty: float = 0.0) -> Problem:
        """The problem of moving from the plan: its own formats and the changes known here.

        Errors are differences from the plan's, moved so that none is negative, which changes no
        optimum.

        Args:
            problem: with all choices.
            doubt: standard errors that are added to each difference, against luck.
            penalty: added to each change.
        """
        gains: dict[tuple[str, Format], float] = dict.fromkeys(self.assignment.items(), 0.0)
        for change in self.changed:
            effect = self.of(change)
            first, *others = change.units
            gains[first, change.format] = effect.error + doubt * effect.error_se + penalty
            gains |= {(unit, change.format): 0.0 for unit in others}
        choices: dict[str, tuple[Choice, ...]] = {}
        for unit, row in problem.choices.items():
            known = [choice for choice in row if (unit, choice.format) in gains]
            least = min(gains[unit, choice.format] for choice in known)
            choices[unit] = tuple(
                replace(choice, error=gains[unit, choice.format] - least) for choice in known
            )
        return replace(problem, choices=choices)

    @property
    def largest(self) -> float:
        """The largest difference that a change makes, without its sign."""
        return max((math.fabs(self.of(change).error) for change in self.changed), default=0.0)
