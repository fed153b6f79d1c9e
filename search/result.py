"""SearchResult: what a search found, and everything that it stands on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mixq.frames import data_frame
from mixq.plan import Plan
from mixq.search.analysis import Layout
from mixq.search.audit import Audit
from mixq.search.candidates import resolve_pins, resolve_ties
from mixq.search.certificate import Certificate, Solution
from mixq.search.final_check import FinalCheck
from mixq.search.frontier import Frontier
from mixq.search.request import demands
from mixq.search.trials import Trial
from mixq.search.view import TRIAL_COLUMNS, result_html, trial_row
from mixq.search.what_if import what_if
from mixq.sensitivity.table import SensitivityTable

if TYPE_CHECKING:
    from optuna.study import Study
    from pandas import DataFrame


@dataclass(frozen=True, repr=False)
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
        certificate: of the chosen plan, with the CPU time that it took.
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
    certificate: Certificate | None = None

    def to_dict(self) -> dict[str, object]:
        """What `mixq search --format json` prints, but for the files that it writes.

        That is the plan, as in plan.json, and where there are any, `check` and `audit`.
        """
        found: dict[str, object] = {} if self.check is None else {"check": self.check.to_dict()}
        if self.audit is not None:
            found["audit"] = json.loads(json.dumps(self.audit.to_json()))  # tuples are lists there
        return self.plan.to_json() | found

    def to_pandas(self) -> DataFrame:
        """One row per measured plan, the plain ones first.

        The columns are `mixq.search.view.TRIAL_COLUMNS`, in this order in every version.
        `plan`, `frontier` and `sensitivity` have data frames of their own.

        Raises:
            MissingExtraError: if pandas is not installed.
        """
        return data_frame(TRIAL_COLUMNS, (trial_row(trial, self.chosen) for trial in self.trials))

    def __repr__(self) -> str:
        """A few lines, whatever the size of the model."""
        total = str(self.plan).splitlines()[-1]
        return (
            f"SearchResult: {total}, {len(self.trials)} trials, "
            f"frontier of {len(self.frontier):,} plans\n"
            "see .plan, .frontier, .trials, .sensitivity, .to_pandas()"
        )

    def _repr_html_(self) -> str:
        return result_html(self)

    def what_if(
        self,
        *,
        target_compression: float | None = None,
        max_size_mb: float | None = None,
        max_latency_ms: float | None = None,
        min_speedup: float | None = None,
        max_memory_mb: float | None = None,
        max_error: float | None = None,
        pin: Mapping[str, int] | None = None,
        tie: Sequence[str] = (),
    ) -> Solution:
        """The plan of least added error under other demands, from what is measured already.

        As in `mixq.search`, but nothing is run: `max_error` limits the added error, and what the
        plan errs as a whole is known once it is measured. Without a demand, the smallest plan.

            result = mixq.search(model, inputs, hardware="intel_cpu", target_compression=6)
            result.what_if(target_compression=8, pin={"head.*": 8}).totals.error

        Raises:
            InfeasibleError: if no plan meets all demands, with what is feasible.
            UsageError: if a pattern matches no unit, or a unit may not take the width.
        """
        budget = demands(
            target_compression=target_compression, max_size_mb=max_size_mb,
            max_latency_ms=max_latency_ms, min_speedup=min_speedup, max_memory_mb=max_memory_mb,
            max_error=max_error,
        )  # fmt: skip
        units = self.layout.graph.units
        return what_if(
            self.frontier.problem,
            budget,
            pins=resolve_pins(units, pin or {}),
            ties=resolve_ties(units, tie),
            frontier=self.frontier,
            baseline_latency_s=self.layout.costs.baseline_latency_s,
        )
