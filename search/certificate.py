"""Certificate: how good an assignment is proven to be, and the check that trusts no solver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mixq.errors import PlanError
from mixq.formats import Format
from mixq.search.limits import Limits, Quantity, Totals
from mixq.search.problem import Problem


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a solver reached and what nothing can beat.

    Attributes:
        objective: the value reached: an error, or bytes when only an error was limited.
        lower_bound: no assignment within the limits is below this.
        gap: (objective - lower_bound) / objective; 0 if both are equal.
        solver: what proved the bound: `dynamic-programming`, `core` or `highs`.
        states: how much work the proof was, the same in every run: partial sums formed, or HiGHS'
            nodes of branch and bound.
        solve_s: CPU time of the proof [s], of a whole frontier where the plan is a point of one.
            It differs between runs, so certificates are compared without it.
    """

    objective: float
    lower_bound: float
    gap: float
    solver: str
    states: int = 0
    solve_s: float = field(default=0.0, compare=False)

    @classmethod
    def of(
        cls,
        objective: float,
        lower_bound: float,
        solver: str,
        states: int = 0,
        solve_s: float = 0.0,
    ) -> Certificate:
        """A certificate with its gap; a bound above the objective is the objective itself."""
        bound = min(max(lower_bound, 0.0), objective)
        gap = (objective - bound) / objective if objective > 0 else 0.0
        return cls(float(objective), float(bound), float(gap), solver, states, solve_s)

    def reached(self, objective: float) -> Certificate:
        """The same bound, for another plan."""
        return Certificate.of(objective, self.lower_bound, self.solver, self.states, self.solve_s)


@dataclass(frozen=True)
class Solution:
    """An assignment with its totals and its certificate."""

    assignment: dict[str, Format]
    totals: Totals
    certificate: Certificate

    def verify(self, problem: Problem, limits: Limits, objective: Quantity | None = None) -> None:
        """Check everything this solution says about itself.

        Raises:
            PlanError: naming the first thing that is not so.
        """
        totals = verify(problem, self.assignment, limits)
        if totals != self.totals:
            raise PlanError(f"the solution says {self.totals}, but its layers sum to {totals}")
        name = objective or limits.objective
        value, said = getattr(totals, name), self.certificate
        if said.objective != value:
            raise PlanError(f"the certificate says {name} {said.objective}, but it is {value}")
        if said != said.reached(value):
            raise PlanError(f"the certificate contradicts itself: {said}")


def verify(problem: Problem, assignment: Mapping[str, Format], limits: Limits) -> Totals:
    """Totals of an assignment, summed afresh from the problem's choices and held to the limits.

    Nothing a solver computed enters: bytes are summed as integers, errors and latencies by
    `math.fsum`, and each is compared with its limit exactly.

    Raises:
        PlanError: if the assignment does not fit the problem or breaks a limit.
    """
    totals = problem.evaluate(assignment)
    for name in limits.given():
        value, limit = getattr(totals, name), limits.of(name)
        if value > limit:
            raise PlanError(f"{name} is {value}, above its limit {limit}; solve again")
    return totals
