"""Exact solutions under any limits by HiGHS.

The rule of what is made small: the error, if bytes or latency are limited; otherwise the bytes.
The fewest bytes are then given the least error. Of equal errors, dynamic programming finds the
fewest bytes; HiGHS is only asked for the fewest bytes at which every unit keeps its error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, milp
from scipy.sparse import csr_array

from mixq.errors import InfeasibleError, MixqError
from mixq.formats import Format
from mixq.search.certificate import Certificate, Solution, verify
from mixq.search.choice import Item
from mixq.search.exact.silence import silent_stdout
from mixq.search.limits import Limits, Quantity
from mixq.search.problem import Problem

_SCALE: Final = 1e6
"""Size of the objective and of every limit as HiGHS sees them. It stops at an absolute gap of
1e-6 and lets rows be broken by 1e-6; scipy cannot change either, so this makes both 1e-12 of
what is solved (unscaled, answers up to 0.86% above the optimum came back as optimal)."""

_PROVEN: Final = 1e-9
"""HiGHS calls a solution optimal; a relative gap up to this is its rounding, not doubt."""

_MAX_NODES: Final = 5_000
"""Branch-and-bound nodes; a limit in seconds would make answers depend on the machine."""

_GAPS: Final = (0.0, 1e-4, 1e-2)
"""Relative gaps asked of HiGHS in turn, the next where the nodes did not suffice."""

_MAX_CUTS: Final = 1_000


def minimise(problem: Problem, objective: Quantity, limits: Limits) -> Solution:
    """The assignment of the least `objective` within the limits, by HiGHS.

    HiGHS works in floating point with tolerances, so it proposes and integers decide: an answer
    that breaks a limit by a hair is cut off and HiGHS asked again; an answer whose objective is
    far below the scale it was solved at is solved again at its own scale.

    Raises:
        InfeasibleError: if no assignment keeps all limits.
        MixqError: if HiGHS gives up.
    """
    for name in limits.given():
        if getattr(problem.extreme(name), name) > (limits.of(name) or 0):
            raise infeasible(problem, limits)
    solution = _rescaled(problem, objective, limits)
    if objective == "weight_bytes":
        tight = replace(limits, weight_bytes=solution.totals.weight_bytes)
        better = _rescaled(problem, "error", tight)
        return replace(better, certificate=solution.certificate)
    equal = {
        unit: tuple(c for c in choices if getattr(c, objective) == getattr(chosen, objective))
        for unit, choices in problem.choices.items()
        for chosen in (problem.choice(unit, solution.assignment[unit]),)
    }
    if all(len(choices) == 1 for choices in equal.values()):
        return solution
    better = _rescaled(replace(problem, choices=equal), "weight_bytes", limits)
    return replace(better, certificate=solution.certificate)


def infeasible(problem: Problem, limits: Limits) -> InfeasibleError:
    """The refusal of limits that no assignment keeps, with the range of each quantity."""
    said: list[str] = []
    ranges: dict[str, str] = {}
    for name in limits.given():
        low = getattr(problem.extreme(name), name)
        high = getattr(problem.extreme(name, largest=True), name)
        said.append(f"{name} <= {limits.of(name):.10g} (possible: {low:.10g} to {high:.10g})")
        ranges[name] = f"{low:.10g} to {high:.10g}"
    return InfeasibleError(f"no assignment keeps {' and '.join(said)}; relax one", ranges)


def _rescaled(problem: Problem, objective: Quantity, limits: Limits) -> Solution:
    model = _Model.of(problem, objective, limits)
    if model is None:
        raise infeasible(problem, limits)
    nodes = 0
    while True:
        answer = model.run(problem, limits)
        nodes += answer.nodes
        if not answer.exact or model.unit <= 10 * answer.reached or answer.reached == 0:
            break
        model = model.at_most(answer.reached)
    doubt = answer.reached - answer.lower_bound
    proven = answer.reached == 0 or (answer.exact and doubt <= _PROVEN * answer.reached)
    bound = None if proven else model.base + answer.lower_bound
    return certified(problem, answer.assignment, limits, objective, bound, "highs", nodes)


def certified(
    problem: Problem,
    assignment: dict[str, Format],
    limits: Limits,
    objective: Quantity,
    lower_bound: float | None,
    solver: str,
    states: int,
) -> Solution:
    """An assignment with its totals, summed afresh, and its certificate.

    Args:
        problem: units and their choices.
        assignment: what was found.
        limits: that it keeps.
        objective: what was made small.
        lower_bound: of the objective; None if the assignment is proven to be best.
        solver: what proved it.
        states: partial sums or nodes that it took.

    Raises:
        PlanError: if the assignment breaks a limit.
    """
    totals = verify(problem, assignment, limits)
    value = getattr(totals, objective)
    bound = value if lower_bound is None else lower_bound
    return Solution(assignment, totals, Certificate.of(value, bound, solver, states))


@dataclass(frozen=True)
class _Answer:
    """What HiGHS found: `reached` and `lower_bound` are above the base of the model.

    `exact` tells whether HiGHS searched to the end, without a gap to stop at; `nodes` are those
    that it opened, with all attempts before.
    """

    assignment: dict[str, Format]
    reached: float
    lower_bound: float
    exact: bool
    nodes: int


@dataclass(frozen=True)
class _Model:
    """A binary program: one column per (item, format) that can still be in an answer.

    Every value is what its column adds to the least of its item, so nothing is negative.

    Attributes:
        owner: item of each column, shape (columns,).
        position: position of each column in `item.formats`, shape (columns,).
        costs: objective of each column, shape (columns,).
        rows: (what each column adds, shape (columns,); how much all may add) per limit.
        base: the objective with every item at its least.
        unit: the objective that HiGHS sees as `_SCALE`.
    """

    owner: NDArray[np.int64]
    position: NDArray[np.int64]
    costs: NDArray[np.float64]
    rows: tuple[tuple[NDArray[np.float64], float], ...]
    base: float
    unit: float

    @classmethod
    def of(cls, problem: Problem, objective: Quantity, limits: Limits) -> _Model | None:
        """The program; None if an item has no format that leaves room for the others."""
        items = problem.items
        sizes = [len(item.formats) for item in items]
        keep = np.ones(sum(sizes), bool)
        rows = []
        for name in limits.given():
            added = _added(items, name)
            limit = limits.of(name) or 0.0
            room = limit - getattr(problem.extreme(name), name)
            if name != "weight_bytes":
                # Rounded sums must not lose an answer that keeps the limit exactly.
                room += len(items) * np.finfo(float).eps * limit
            keep &= added <= room
            rows.append((added, float(room)))
        owner = np.repeat(np.arange(len(items)), sizes)
        position = np.concatenate([np.arange(size) for size in sizes])
        if len(np.unique(owner[keep])) < len(items):
            return None
        costs = _added(items, objective)
        base = getattr(problem.extreme(objective), objective)
        unit = float(costs[keep].max())
        return cls(owner, position, costs, tuple(rows), base, unit)._only(keep)

    def at_most(self, reached: float) -> _Model:
        """The program without columns that alone cost more than what was reached."""
        return replace(self, unit=reached)._only(self.costs <= reached)

    def _only(self, keep: NDArray[np.bool_]) -> _Model:
        return replace(
            self,
            owner=self.owner[keep],
            position=self.position[keep],
            costs=self.costs[keep],
            rows=tuple((added[keep], room) for added, room in self.rows),
        )

    def run(self, problem: Problem, limits: Limits) -> _Answer:
        """HiGHS' answer to the program that keeps the limits exactly."""
        columns, items = np.arange(len(self.costs)), len(problem.items)
        one_each = csr_array((np.ones(len(columns)), (self.owner, columns)))
        constraints = [LinearConstraint(one_each, 1.0, 1.0)]
        for added, room in self.rows:
            if room > 0:
                scaled = csr_array((added * (_SCALE / room))[None])
                constraints.append(LinearConstraint(scaled, -np.inf, _SCALE))
        scale = _SCALE / self.unit if self.unit > 0 else 1.0
        nodes = 0
        for _ in range(_MAX_CUTS):
            result, gap, opened = _highs(self.costs * scale, constraints)
            nodes += opened
            if result.status == 2:
                raise infeasible(problem, limits)
            if result.status != 0:
                raise MixqError(f"HiGHS found no assignment ({result.message}); relax a limit")
            chosen = np.flatnonzero(result.x > 0.5)
            assignment = self._assignment(problem, chosen)
            if limits.allow(problem.evaluate(assignment)):
                reached = math.fsum(self.costs[chosen])
                bound = float(result.mip_dual_bound) / scale
                return _Answer(assignment, reached, bound, gap == 0, nodes)
            cut = np.zeros(len(columns))
            cut[chosen] = 1.0
            constraints.append(LinearConstraint(csr_array(cut[None]), -np.inf, items - 1.0))
        raise MixqError(
            f"HiGHS proposed {_MAX_CUTS} assignments that break a limit by less than its "
            "rounding; relax a limit slightly"
        )

    def _assignment(self, problem: Problem, chosen: NDArray[np.int64]) -> dict[str, Format]:
        taken: dict[str, Format] = {}
        for column in chosen:
            item = problem.items[self.owner[column]]
            taken.update(dict.fromkeys(item.units, item.formats[self.position[column]]))
        return {unit: taken[unit] for unit in problem.choices}


def _added(items: tuple[Item, ...], name: Quantity) -> NDArray[np.float64]:
    """What each format adds to the least of its item, shape (formats of all items,)."""
    parts = [item.values(name) for item in items]
    return np.concatenate([(part - part.min()).astype(np.float64) for part in parts])


def _highs(
    costs: NDArray[np.float64], constraints: list[LinearConstraint]
) -> tuple[OptimizeResult, float, int]:
    """What HiGHS answers, the gap it was asked for, and its nodes; status 4 if it gave up."""
    nodes = 0
    for gap in _GAPS:
        result = _attempt(costs, constraints, gap)
        nodes += int(result.mip_node_count or 0)
        if result.status in (0, 2):
            break
    return result, gap, nodes


def _attempt(
    costs: NDArray[np.float64], constraints: list[LinearConstraint], gap: float
) -> OptimizeResult:
    with silent_stdout():
        return milp(
            costs,
            integrality=np.ones(len(costs), np.int64),
            bounds=Bounds(0.0, 1.0),
            constraints=constraints,
            options={"mip_rel_gap": gap, "node_limit": _MAX_NODES},
        )
