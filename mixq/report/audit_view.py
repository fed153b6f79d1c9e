"""AuditView: what the audit's plots show, before any plotting library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from mixq.files import one_line
from mixq.report.heat_view import short_names
from mixq.report.log_axis import LogAxis
from mixq.search.audit import Audit, AuditedPlan
from mixq.search.trials import PLAIN

Kind = Literal["trial", "uniform", "chosen"]

PLANS_TITLE: Final = "measured plans: do errors add up?"
PAIRS_TITLE: Final = "what two layers err together beside what each errs alone"
PAIRS_AXIS: Final = "% of the added error (lines: two standard errors)"
NO_PAIRS: Final = "no two layers of the plan err"
DIAGONAL: Final = "errors add up"
MORE_COLOUR: Final = "#dc2626"
LESS_COLOUR: Final = "#2563eb"
LEGEND: Final[dict[Kind, str]] = {
    "trial": "trials",
    "uniform": "one width or format everywhere",
    "chosen": "chosen plan",
}


@dataclass(frozen=True)
class Bar:
    """An interaction.

    Attributes:
        names: of the two layers, short enough to be drawn.
        percent: of the plan's added error.
        twice_se: two standard errors of that.
    """

    names: tuple[str, str]
    percent: float
    twice_se: float

    @property
    def colour(self) -> str:
        """By its sign: errors that add to each other, or cancel."""
        return MORE_COLOUR if self.percent > 0 else LESS_COLOUR


@dataclass(frozen=True)
class AuditView:
    """Plans by kind on one logarithmic axis for both directions, and bars.

    Attributes:
        sentence: what was found.
        axis: of added and of measured errors.
        bars: the largest interaction first.
        error_title: what errors are.
    """

    sentence: str
    axis: LogAxis
    plans: dict[Kind, tuple[AuditedPlan, ...]]
    bars: tuple[Bar, ...]
    error_title: str

    @classmethod
    def of(cls, audit: Audit) -> AuditView:
        """The view of an audit."""
        kinds: dict[Kind, list[AuditedPlan]] = {"trial": [], "uniform": [], "chosen": []}
        for plan in audit.plans:
            kinds[_kind(audit, plan)].append(plan)
        predicted = audit.plan.predicted
        shown = dict(zip(audit.layers, _names(audit.layers), strict=True))
        bars = tuple(
            Bar(
                (shown[pair.first], shown[pair.second]),
                100 * pair.excess / predicted,
                200 * pair.excess_se / predicted,
            )
            for pair in audit.interactions
            if predicted > 0
        )
        values = [value for plan in audit.plans for value in (plan.predicted, plan.measured)]
        metric = "mean squared" if audit.metric == "mse" else one_line(audit.metric, 60)
        return cls(
            audit.sentence, LogAxis.of(values), {k: tuple(v) for k, v in kinds.items()}, bars,
            f"output error ({metric})",
        )  # fmt: skip

    def xy(self, plans: Sequence[AuditedPlan]) -> tuple[list[float], list[float]]:
        """Where plans are drawn: added error and measured error."""
        place = self.axis.place
        return [place(p.predicted) for p in plans], [place(p.measured) for p in plans]


def describe(plan: AuditedPlan) -> list[str]:
    """What there is to say about one plan, in lines."""
    ratio = "" if plan.ratio is None else f", {plan.ratio:.3g} times"
    return [
        f"added error {plan.predicted:.4g}",
        f"measured error {plan.measured:.4g} ± {plan.measured_se:.1g}{ratio}",
    ]


def _kind(audit: Audit, plan: AuditedPlan) -> Kind:
    if plan is audit.plan:
        return "chosen"
    return "uniform" if plan.kind in PLAIN else "trial"


def _names(layers: Sequence[str]) -> list[str]:
    """Names of layers, short enough to be drawn; they come from outside."""
    return short_names([one_line(name) for name in layers])
