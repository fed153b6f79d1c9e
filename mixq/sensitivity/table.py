"""SensitivityTable: output error of each unit in each format, every other unit untouched."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mixq.errors import FormatError, PlanError
from mixq.files import parse_json, read_bounded, write_json_atomic, write_text_atomic
from mixq.formats import Format
from mixq.sensitivity.estimate import Estimate
from mixq.validation import first_problem

LARGEST_FILE: Final = 256 << 20


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
        """The table as JSON values; the file is exactly this."""
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
                    fmt.name: {"error": e.error, "error_se": e.error_se, "samples": e.samples}
                    for fmt, e in row.items()
                }
                for unit, row in self.entries.items()
            },
            "refused": [
                {"unit": unit, "format": name, "reason": reason}
                for (unit, name), reason in self.refused.items()
            ],
        }

    def save(self, path: str | Path) -> None:
        """Write the table as JSON, whole or not at all."""
        write_json_atomic(path, self.to_json())

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
                    Format.parse(name): Estimate(e.error, e.error_se, e.samples)
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
        """Write one row per (unit, format), with the relative error beside squared errors."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["unit", "format", "bits", "error", "error_se", "relative_error"])
        for unit, row in self.entries.items():
            for fmt, entry in row.items():
                relative: float | str = ""
                if self.metric == "mse":
                    relative = entry.error / self.output_power if self.output_power else 0.0
                elif self.metric == "relative":
                    relative = entry.error
                writer.writerow([unit, fmt.name, fmt.bits, entry.error, entry.error_se, relative])
        write_text_atomic(path, text.getvalue())


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", protected_namespaces=())


class _Entry(_Strict):
    error: float = Field(ge=0, allow_inf_nan=False)
    error_se: float = Field(ge=0, allow_inf_nan=False)
    samples: int = Field(ge=1)


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
    samples: int = Field(ge=1)
    model_fingerprint: str
    calibration_fingerprint: str
    units: dict[str, dict[str, _Entry]]
    refused: list[_Refusal] = []
