"""SearchResult: what a search found, and everything that it stands on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mixq.plan import Plan
from mixq.search.analysis import Layout
from mixq.search.audit import Audit
from mixq.search.final_check import FinalCheck
from mixq.search.frontier import Frontier
from mixq.search.trials import Trial
from mixq.sensitivity.table import SensitivityTable

if TYPE_CHECKING:
    from optuna.study import Study


@dataclass(frozen=True)
class SearchResult:
    """What a search found, and everything that it stands on.

    Attributes:
        plan: the chosen plan.
        frontier: what nothing beats on (bytes, added error).
        trials: every measured plan, uniform ones first.
        chosen: the trial that became the plan.
        study: the Optuna study that holds the trials.
        sensitivity: output error of every (unit, format) alone.
        layout: the traced model, its candidate formats and their costs.
        audit: whether errors add up; None if nothing was measured for that.
        check: what the packed model gave when it was run at the end; None if it was not.
    """

    plan: Plan
    frontier: Frontier
    trials: tuple[Trial, ...]
    chosen: Trial
    study: Study
    sensitivity: SensitivityTable
    layout: Layout
    audit: Audit | None = None
    check: FinalCheck | None = None
