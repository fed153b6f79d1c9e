"""Metrics of plans on labelled data, and the smallest plan whose metric drops little enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mixq.errors import InfeasibleError, ModelError
from mixq.formats import Format
from mixq.graph.units import WeightUnit
from mixq.progress import Progress
from mixq.search.milp import solve
from mixq.search.problem import Limits, Problem
from mixq.search.session import Session
from mixq.search.trials import Proposal, Trial
from mixq.sensitivity.joint import dequantized_copy

if TYPE_CHECKING:
    from torch import nn

Evaluate = Callable[["nn.Module"], Mapping[str, float]]
STEPS = 8
"""Bisection steps: the bytes of the answer are within 1/256 of the range of the best."""


@dataclass
class Judge:
    """Metrics by a user's `evaluate`, each assignment judged once.

    `evaluate.primary` names the headline metric (by default the first one), and
    `evaluate.higher_is_better` (by default True) says which way is better.
    """

    model: nn.Module
    units: Mapping[str, WeightUnit]
    evaluate: Evaluate
    _known: dict[tuple[tuple[str, str], ...], dict[str, float]] = field(default_factory=dict)

    def metrics(self, assignment: Mapping[str, Format]) -> dict[str, float]:
        """Metrics of the model with an assignment in place; of the original for an empty one.

        Raises:
            ModelError: if `evaluate` returns anything but finite numbers by name.
        """
        key = tuple(sorted((unit, fmt.name) for unit, fmt in assignment.items()))
        if key not in self._known:
            changed = dequantized_copy(self.model, self.units, assignment)
            self._known[key] = _checked(self.evaluate(changed.eval()))
        return self._known[key]

    def primary(self) -> str:
        """Name of the headline metric."""
        metrics = self.metrics({})
        name = getattr(self.evaluate, "primary", next(iter(metrics)))
        if name not in metrics:
            raise ModelError(
                f"evaluate.primary is {name!r}, but evaluate returns {', '.join(metrics)}; "
                "name one of those"
            )
        return str(name)

    def drop(self, assignment: Mapping[str, Format]) -> float:
        """How much worse the headline metric is than the original's; negative if better."""
        name = self.primary()
        change = self.metrics({})[name] - self.metrics(assignment)[name]
        return change if getattr(self.evaluate, "higher_is_better", True) else -change


def smallest_within_drop(
    session: Session, limits: Limits, judge: Judge, max_drop: float, progress: Progress
) -> tuple[Trial, list[Trial]]:
    """The smallest plan found whose headline metric drops by at most `max_drop`.

    Bisects the bytes between the smallest plan and the one of no error, taking at each size the
    plan of least added error, and judging it by the metric; this finds the smallest such plan if
    the metric falls with the bytes, and a plan that keeps the demand in any case.

    Returns:
        The chosen trial, and all that were measured on the way.

    Raises:
        InfeasibleError: if even the largest plan drops by more.
    """
    problem = session.problem
    low = problem.extreme("weight_bytes").weight_bytes
    high = problem.extreme("weight_bytes", largest=True).weight_bytes
    best: Trial | None = None
    measured: list[Trial] = []
    steps = STEPS + 1
    for step in range(steps):
        progress("judging plans by the metric", step, steps)
        size = high if step == 0 else (low + high) // 2
        trial = _measured_at(session, problem, replace(limits, weight_bytes=size), size)
        drop = math.inf if trial is None else judge.drop(trial.proposal.assignment)
        if trial is not None:
            measured.append(trial)
        if drop <= max_drop and trial is not None:
            best, high = trial, trial.totals.weight_bytes
        elif step == 0:
            raise InfeasibleError(
                f"--max-metric-drop {max_drop:g} cannot be met: the largest plan drops "
                f"{judge.primary()} by {drop:g}; allow more, or wider formats with --bits",
                {"max_metric_drop": f"{drop:g} or more"},
            )
        else:
            low = size
    progress("judging plans by the metric", steps, steps)
    assert best is not None  # the first step either found one or raised
    return best, measured


def _measured_at(
    session: Session, problem: Problem, limits: Limits, size: int
) -> Trial | None:
    try:
        solution = solve(problem, limits)
    except InfeasibleError:
        return None
    return session.run([Proposal(f"least error in {size:,} bytes", "metric", solution.assignment)])[0]


def _checked(metrics: object) -> dict[str, float]:
    if not isinstance(metrics, Mapping) or not metrics:
        raise ModelError(
            f"evaluate returns {metrics!r:.60}, but it must return a dict of numbers by name"
        )
    values = {str(name): float(value) for name, value in metrics.items()}
    for name, value in values.items():
        if not math.isfinite(value):
            raise ModelError(f"evaluate gives {name} = {value}, but metrics must be finite")
    return values
