"""BenchFile: bench.json of `mixq bench` or of its suite, read again for a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mixq.errors import PlanError
from mixq.files import parse_json, read_bounded
from mixq.validation import first_problem

LARGEST_FILE: Final = 256 << 20

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class Quartiles(_Read):
    """A number over rounds."""

    median: Amount
    low: Amount
    high: Amount


class Ratios(_Read):
    """A time over fp32's, by the clock and by the processor."""

    wall: Quartiles
    cpu: Quartiles


class Grown(_Read):
    """How much a fresh process grew, in bytes, see `mixq.bench.memory.Memory`."""

    anonymous_bytes: Amount
    peak_bytes: Amount


class BenchRow(_Read):
    """One candidate."""

    name: str
    runtime: str
    file_bytes: Amount
    fault: str | None = None
    latency_s: Amount | None = None
    ratio: Ratios | None = None
    memory: Grown | None = None
    metric: dict[str, dict[str, Number]] = {}
    predicted_latency_s: Amount | None = None
    predicted_ratio: Amount | None = None


class BenchMachine(_Read):
    """What it ran on."""

    processor: str
    cores: int
    load: Amount


class BenchSettings(_Read):
    """How it ran."""

    threads: int
    batch_size: int
    repeat: int


class BenchFile(_Read):
    """Candidates of one model side by side."""

    model: str
    inputs: str
    settings: BenchSettings
    machine: BenchMachine
    primary_metric: dict[str, str] = {}
    rows: list[BenchRow]

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a bench.json; of a suite its first model.

        Raises:
            PlanError: if the file is missing, truncated or breaks a rule.
        """
        text = read_bounded(path, LARGEST_FILE, PlanError, "bench")
        data: Any = parse_json(text, PlanError, f"bench {path}")
        if isinstance(data, dict) and isinstance(data.get("benches"), list) and data["benches"]:
            data = data["benches"][0]
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise PlanError(f"bench {path}: {first_problem(error)}") from error
