"""SensitivityTable: output error of each unit in each format, every other unit untouched."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mixq.errors import FormatError, PlanError
from mixq.files import json_text, parse_json, read_bounded, write_text_atomic
from mixq.formats import Format
from mixq.frames import data_frame
from mixq.sensitivity.estimate import Estimate
from mixq.sensitivity.metrics.choice import BUILT_IN
from mixq.sensitivity.view import COLUMNS, table_html, table_rows
from mixq.validation import first_problem

if TYPE_CHECKING:
    from pandas import DataFrame

LARGEST_FILE: Final = 256 << 20
MOST_KEPT: Final = 2_000_000
"""Errors by sample that are written; of larger tables only means and standard errors are."""
NUMBERS: Final = re.compile(r"\[\n[-+.\deE,\n ]+\]")
"""A list of numbers in indented JSON, where no text can have a line break."""


@dataclass(frozen=True)
class SensitivityTable:
    """(unit, format) to output error with its standard error.

    Attributes:
        entries: unit name to format to estimate. A format that a unit cannot take (a scale
            beyond float16, for instance) is missing, see `refused`.
        output_power: mean square of the original's output; relative error divides by it.
        output: names of the compared outputs with commas; empty for a model with a single one.
        samples: number of calibration samples.
        model_fingerprint, calibration_fingerprint: what was measured on what.
        mode: how: `measured`, `auto` or `sketch`.
        refused: (unit, format name) to the reason why it cannot be.
        metric: in which errors are: `mse`, another of `mixq.sensitivity.metrics`, or a loss's.
        outputs: weights of the compared outputs by name; empty where the main one was taken.
    """

    entries: Mapping[str, Mapping[Format, Estimate]]
    output_power: float
    output: str
    samples: int
    model_fingerprint: str
    calibration_fingerprint: str
    mode: str = "measured"
    refused: Mapping[tuple[str, str], str] = field(default_factory=dict)
    metric: str = "mse"
    outputs: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """The table as JSON values; the file is exactly this.

        Errors by sample are left out where they are many.
        """
        entries = [entry for row in self.entries.values() for entry in row.values()]
        kept = sum(len(entry.per_sample) for entry in entries) <= MOST_KEPT
        return {
            "schema_version": 1,
            "mode": self.mode,
            "metric": self.metric,
            "outputs": dict(self.outputs),
            "output": self.output,
            "output_power": self.output_power,
            "samples": self.samples,
            "model_fingerprint": self.model_fingerprint,
            "calibration_fingerprint": self.calibration_fingerprint,
            "units": {
                unit: {
                    fmt.name: {
                        **e.to_json(),
                        **({"per_sample": list(e.per_sample)} if e.per_sample and kept else {}),
                        **({} if e.own_se is None else {"own_se": e.own_se}),
                    }
                    for fmt, e in row.items()
                }
                for unit, row in self.entries.items()
            },
            "refused": [
                {"unit": unit, "format": name, "reason": reason}
                for (unit, name), reason in self.refused.items()
            ],
        }

    def to_dict(self) -> dict[str, object]:
        """What sensitivity.json holds, as dicts, lists, text and numbers."""
        return self.to_json()

    def to_pandas(self) -> DataFrame:
        """One row per (unit, format), as in sensitivity.csv.

        The columns are `mixq.sensitivity.view.COLUMNS`, in this order in every version.

        Raises:
            MissingExtraError: if pandas is not installed.
        """
        return data_frame(COLUMNS, table_rows(self))

    def _repr_html_(self) -> str:
        return table_html(self)

    def save(self, path: str | Path) -> None:
        """Write the table as JSON, whole or not at all."""
        text = json_text(self.to_json())
        write_text_atomic(path, NUMBERS.sub(lambda found: " ".join(found[0].split()), text))

    @classmethod
    def load(cls, path: str | Path) -> SensitivityTable:
        """Read a table from JSON.

        Raises:
            PlanError: if the file is missing, truncated or breaks a rule.
        """
        what = f"sensitivity table {path}"
        data = parse_json(
            read_bounded(path, LARGEST_FILE, PlanError, "sensitivity table"), PlanError, what
        )
        try:
            file = _File.model_validate(data)
        except ValidationError as error:
            raise PlanError(f"{what}: {first_problem(error)}") from error
        try:
            entries = {
                unit: {
                    Format.parse(name): Estimate(
                        e.error, e.error_se, e.samples, tuple(e.per_sample), e.own_se
                    )
                    for name, e in row.items()
                }
                for unit, row in file.units.items()
            }
        except FormatError as error:
            raise PlanError(f"{what}: {error}") from error
        return cls(
            entries=entries,
            output_power=file.output_power,
            output=file.output,
            samples=file.samples,
            model_fingerprint=file.model_fingerprint,
            calibration_fingerprint=file.calibration_fingerprint,
            mode=file.mode,
            refused={(r.unit, r.format): r.reason for r in file.refused},
            metric=file.metric,
            outputs=file.outputs,
        )

    def save_csv(self, path: str | Path) -> None:
        """Write one row per (unit, format), squared errors relative too, and the 95% interval."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(table_rows(self))  # None is written as nothing
        write_text_atomic(path, text.getvalue())


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", protected_namespaces=())


class _Entry(_Strict):
    error: float = Field(ge=0, allow_inf_nan=False)
    error_se: float = Field(ge=0, allow_inf_nan=False)
    samples: int = Field(ge=1, le=1 << 62)
    own_se: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    per_sample: list[Annotated[float, Field(allow_inf_nan=False)]] = []

    @model_validator(mode="after")
    def _one_per_sample(self) -> Self:
        if self.per_sample and len(self.per_sample) != self.samples:
            raise ValueError(f"per_sample has {len(self.per_sample)} errors of {self.samples}")
        return self


class _Refusal(_Strict):
    unit: str
    format: str
    reason: str


class _File(_Strict):
    schema_version: int = Field(ge=1, le=1)
    mode: str
    metric: str = "mse"
    outputs: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = {}
    output: str
    output_power: float = Field(ge=0, allow_inf_nan=False)
    samples: int = Field(ge=1, le=1 << 62)
    model_fingerprint: str
    calibration_fingerprint: str
    units: dict[str, dict[str, _Entry]]
    refused: list[_Refusal] = []

    @model_validator(mode="after")
    def _losses_alone_may_fall(self) -> Self:
        if self.metric in BUILT_IN:
            for unit, row in self.units.items():
                for name, entry in row.items():
                    if min(entry.per_sample, default=0.0) < 0:
                        raise ValueError(f"{unit} at {name} has a negative error on a sample")
        return self
