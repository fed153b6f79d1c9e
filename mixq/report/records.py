"""Frontier file: the plans of a run as records, for scripts and for drawing them again."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from mixq.errors import PlanError
from mixq.files import one_line, write_json_atomic, write_text_atomic
from mixq.report.points import PlanPoint
from mixq.search.trials import PLAIN
from mixq.validation import read_model

if TYPE_CHECKING:
    from mixq.search.result import SearchResult

MOST_POINTS: Final = 300
"""Frontier points that are written; more are thinned evenly, since no plot shows them."""
LARGEST_FILE: Final = 256 << 20

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Record(BaseModel):
    """One plan: of the frontier, of a trial, or the chosen one.

    Attributes:
        formats: position in `Records.formats` for each of `Records.units`.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    name: str
    kind: Literal["frontier", "trial", "uniform", "chosen"]
    weight_bytes: int = Field(gt=0, le=1 << 62)
    compression: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    error: Amount
    latency_s: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    measured: bool
    detail: str = ""
    formats: list[int] = []

    def point(self) -> PlanPoint:
        """The record as a point of the plots."""
        return PlanPoint(
            self.name, self.kind, self.weight_bytes, self.compression, self.error,
            self.latency_s, self.measured, self.detail,
        )  # fmt: skip


class Records(BaseModel):
    """All plans of a run; `frontier.json` is exactly this.

    Attributes:
        metric: that errors are in.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    schema_version: Literal[1] = 1
    exact: bool
    metric: str = "mse"
    frontier_points: int = Field(ge=0, le=1 << 62)
    units: list[str]
    formats: list[str]
    plans: list[Record]

    @model_validator(mode="after")
    def _formats_exist(self) -> Self:
        for plan in self.plans:
            if len(plan.formats) not in (0, len(self.units)) or not all(
                0 <= position < len(self.formats) for position in plan.formats
            ):
                raise ValueError(
                    f"plan {one_line(plan.name, 60)!r} has formats that are not there"
                )
        return self

    @classmethod
    def of(cls, result: SearchResult) -> Records:
        """The frontier, the measured trials and the chosen plan of a search."""
        problem = result.frontier.problem
        units = list(problem.choices)
        names = sorted({c.format.name for choices in problem.choices.values() for c in choices})
        position = {name: index for index, name in enumerate(names)}
        plans = []
        count = len(result.frontier)
        for index in np.unique(np.linspace(0, count - 1, min(count, MOST_POINTS)).astype(int)):
            assignment = result.frontier.assignment(int(index))
            totals = problem.evaluate(assignment)
            plans.append(
                Record(
                    name=f"frontier {int(index) + 1} of {count}",
                    kind="frontier",
                    weight_bytes=totals.weight_bytes,
                    compression=totals.compression,
                    error=totals.error,
                    latency_s=totals.latency_s,
                    measured=False,
                    formats=[position[assignment[unit].name] for unit in units],
                )
            )
        for trial in result.trials:
            kind: Literal["chosen", "uniform", "trial"] = "trial"
            error = trial.measured.error
            if trial is result.chosen:
                kind = "chosen"
                # Rounded once more, on all calibration data, it errs on them by what it has
                # learnt; beside the others it stands with what it erred before.
                error = error if result.audit is None else result.audit.plan.measured
            elif trial.proposal.kind in PLAIN:
                kind = "uniform"
            heldout = trial.heldout
            plans.append(
                Record(
                    name=trial.proposal.name,
                    kind=kind,
                    weight_bytes=trial.totals.weight_bytes,
                    compression=trial.totals.compression,
                    error=error,
                    latency_s=trial.totals.latency_s,
                    measured=True,
                    detail="" if heldout is None else f"held-out error {heldout.error:.3g}",
                    formats=[position[trial.proposal.assignment[unit].name] for unit in units],
                )
            )
        return cls(
            exact=result.frontier.exact,
            metric=result.sensitivity.metric,
            frontier_points=count,
            units=units,
            formats=names,
            plans=plans,
        )

    @classmethod
    def load(cls, path: str | Path) -> Records:
        """Read `frontier.json`.

        Raises:
            PlanError: if the file is missing, truncated or breaks a rule.
        """
        return read_model(cls, path, LARGEST_FILE, PlanError, "frontier")

    def save(self, path: str | Path) -> None:
        """Write as JSON, whole or not at all."""
        write_json_atomic(path, self.model_dump(mode="json"))

    def save_csv(self, path: str | Path) -> None:
        """Write one row per plan, without its formats."""
        columns = (
            "name", "kind", "weight_bytes", "compression", "error", "latency_s", "measured",
        )  # fmt: skip
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([getattr(plan, column) for column in columns] for plan in self.plans)
        write_text_atomic(path, text.getvalue())

    def points(self) -> list[PlanPoint]:
        """All plans as points of the plots."""
        return [plan.point() for plan in self.plans]
