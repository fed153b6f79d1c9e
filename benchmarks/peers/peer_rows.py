"""Rows of the comparison's data file."""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parents[1] / "data" / "other_tools.csv"


@dataclass(frozen=True)
class Row:
    """One job's outcome, as a line of the data file.

    Attributes:
        against: of mixq, the tool whose bytes were the most that it might take.
        error: mean over the test samples, of what `error_metric` names, and its standard error.
        metric: the model's headline metric.
        cpu_s: of the whole process.
        peak_mb: its largest resident set [10^6 bytes].
    """

    model: str
    tool: str
    version: str
    setting: str
    kind: str
    against: str
    weight_bytes: int
    error_metric: str
    error: float
    error_se: float
    metric: str
    value: float
    cpu_s: float
    peak_mb: float
    note: str

    @property
    def key(self) -> tuple[str, ...]:
        return self.model, self.tool, self.setting, self.against


def read_rows() -> list[Row]:
    """The rows of the data file, in its order."""
    if not DATA.exists():
        return []
    with DATA.open(newline="", encoding="utf-8") as file:
        return [
            Row(**{f.name: _number(f.type, line[f.name]) for f in fields(Row)})
            for line in csv.DictReader(file)
        ]


def _number(kind: Any, text: str) -> Any:
    return {"int": int, "float": float}.get(kind, str)(text)


def write_rows(rows: list[Row]) -> None:
    with DATA.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
