"""Judge: metrics of plans on labelled data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from mixq.errors import ModelError, UsageError
from mixq.files import one_line
from mixq.formats import Format
from mixq.progress import Progress, track
from mixq.rounding.rounder import Rounder
from mixq.search.trials import Trial
from mixq.sensitivity.compare import Evaluate, judged
from mixq.sensitivity.joint import dequantized_copy

LESS_IS_BETTER: Final = frozenset(
    ("loss", "error", "perplexity", "ppl", "wer", "cer", "mae", "mse", "rmse")
)
"""Words in the names of metrics of which less is usually better."""


@dataclass
class Judge:
    """Metrics by a user's `evaluate`, each assignment judged once.

    `evaluate.primary` names the headline metric (by default the first one), and
    `evaluate.higher_is_better` (by default True) says which way is better. Where the name has one
    of `LESS_IS_BETTER`, a drop is told only if it is set.
    """

    rounder: Rounder
    evaluate: Evaluate
    _known: dict[tuple[tuple[str, str], ...], dict[str, float]] = field(default_factory=dict)

    def metrics(self, assignment: Mapping[str, Format]) -> dict[str, float]:
        """Metrics of the model with an assignment in place; of the original for an empty one.

        Raises:
            ModelError: if `evaluate` fails or returns anything but finite numbers by name.
        """
        key = tuple(sorted((unit, fmt.name) for unit, fmt in assignment.items()))
        if key not in self._known:
            # A copy also for the original: nothing that evaluate does may change it.
            changed = dequantized_copy(self.rounder, assignment)
            metrics = judged(self.evaluate, changed)
            headline = getattr(self.evaluate, "primary", None)
            # The headline first, also in the plan, where tables look for it.
            first = {headline: metrics[headline]} if headline in metrics else {}
            self._known[key] = first | metrics
        return self._known[key]

    def primary(self) -> str:
        """Name of the headline metric.

        Raises:
            ModelError: if `evaluate` gives no metric of that name.
        """
        metrics = self.metrics({})
        name = str(getattr(self.evaluate, "primary", next(iter(metrics))))
        _value(metrics, name)
        return name

    def drop(self, assignment: Mapping[str, Format]) -> float:
        """How much worse the headline metric is than the original's; negative if better.

        Raises:
            ModelError: if `evaluate` gives no headline metric.
            UsageError: if its name sounds as if less were better, and `evaluate` says nothing.
        """
        name = self.primary()
        check_direction(self.evaluate, name)
        change = _value(self.metrics({}), name) - _value(self.metrics(assignment), name)
        return change if getattr(self.evaluate, "higher_is_better", True) else -change


@dataclass(frozen=True)
class PlanMetrics:
    """Metrics that stand in a plan; empty without labelled data.

    Attributes:
        original: of the original model.
        plan: of the plan.
        uniform: of the plans of one width or format by their proposals' names.
    """

    original: Mapping[str, float] = field(default_factory=dict)
    plan: Mapping[str, float] = field(default_factory=dict)
    uniform: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def plan_metrics(
    judge: Judge, deployment: Judge, chosen: Trial, uniform: Sequence[Trial], progress: Progress
) -> PlanMetrics:
    """The metrics of a search's plans, each judged once.

    Args:
        judge: of the codes that the search measured.
        deployment: of the codes that the chosen plan is deployed with.
        chosen: the chosen plan.
        uniform: those of one width or format.
        progress: is told how far it is.

    Raises:
        ModelError: as `Judge.metrics`.
    """
    asked = [(judge, {}), *((judge, t.proposal.assignment) for t in uniform)]
    asked.append((deployment, chosen.proposal.assignment))
    original, *rest, plan = (
        by.metrics(assignment)
        for by, assignment in track(asked, "evaluating on labelled data", len(asked), progress)
    )
    named = {trial.proposal.name: found for trial, found in zip(uniform, rest, strict=True)}
    return PlanMetrics(original, plan, named)


def check_direction(evaluate: Evaluate, name: str) -> None:
    """Refuse to guess which way a metric is better where its name speaks against the default.

    Raises:
        UsageError: if a word of the name is in `LESS_IS_BETTER`, and `evaluate` does not say.
    """
    words = re.split(r"[^a-z0-9]+", name.lower())
    if not LESS_IS_BETTER.isdisjoint(words) and not hasattr(evaluate, "higher_is_better"):
        raise UsageError(
            f"metric {name!r:.60} sounds as if less were better; "
            "set evaluate.higher_is_better = False (or True) where it is defined"
        )


def _value(metrics: Mapping[str, float], name: str) -> float:
    if name not in metrics:
        raise ModelError(
            f"the headline metric is {name!r:.60}, but evaluate returns "
            f"{one_line(', '.join(metrics))}; set evaluate.primary to one that it always returns"
        )
    return metrics[name]
