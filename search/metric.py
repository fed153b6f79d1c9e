"""Judge: metrics of plans on labelled data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mixq.errors import ModelError
from mixq.files import one_line
from mixq.formats import Format
from mixq.graph.units import WeightUnit
from mixq.sensitivity.compare import Evaluate, judged
from mixq.sensitivity.joint import dequantized_copy

if TYPE_CHECKING:
    from torch import nn


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
            ModelError: if `evaluate` fails or returns anything but finite numbers by name.
        """
        key = tuple(sorted((unit, fmt.name) for unit, fmt in assignment.items()))
        if key not in self._known:
            # A copy also for the original: nothing that evaluate does may change it.
            changed = dequantized_copy(self.model, self.units, assignment)
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
        """
        name = self.primary()
        change = _value(self.metrics({}), name) - _value(self.metrics(assignment), name)
        return change if getattr(self.evaluate, "higher_is_better", True) else -change


def _value(metrics: Mapping[str, float], name: str) -> float:
    if name not in metrics:
        raise ModelError(
            f"the headline metric is {name!r:.60}, but evaluate returns "
            f"{one_line(', '.join(metrics))}; set evaluate.primary to one that it always returns"
        )
    return metrics[name]
