"""Row and Bench: what was measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from mixq import __version__
from mixq.bench.memory import Memory
from mixq.bench.timing import Ratio, Timing
from mixq.errors import UsageError

BASE: Final = "fp32"
"""Name of the candidate that ratios are over."""


@dataclass(frozen=True)
class Settings:
    """How a bench runs.

    Attributes:
        threads: of one call.
        batch_size: samples of one call.
        repeat: rounds.
        seed: of the order in each round.
        sequence: tokens of each sample; None for all of them.

    Raises:
        UsageError: if a count is not positive.
    """

    threads: int = 1
    batch_size: int = 1
    repeat: int = 30
    seed: int = 0
    sequence: int | None = None

    def __post_init__(self) -> None:
        for option, value in (
            ("--threads", self.threads),
            ("--batch-size", self.batch_size),
            ("--repeat", self.repeat),
            ("--sequence", self.sequence),
        ):
            if value is not None and value < 1:
                raise UsageError(f"{option} is {value}, but it must be at least 1")


@dataclass(frozen=True)
class Machine:
    """What everything ran on.

    Attributes:
        load: average number of waiting processes in the last minute, before the rounds: how much
            else the machine did.
    """

    processor: str
    cores: int
    system: str
    load: float

    @classmethod
    def here(cls) -> Machine:
        """This one."""
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        return cls(_processor(), os.cpu_count() or 1, platform.system(), round(load, 2))


@dataclass(frozen=True)
class Row:
    """One candidate.

    Attributes:
        fault: why it did not run, in words; then nothing below it is known.
        timing: all its calls.
        ratio: of its time over fp32's, round by round; None without fp32.
        memory: of a fresh process; None where the system does not tell, or it failed.
        metric: of each data set, by the model's own evaluation run through the runtime.
        predicted_latency_s, predicted_ratio, predicted_peak_bytes: by the plan, for its chip and
            workload.
        notes: what to know of it.
    """

    name: str
    runtime: str
    file_bytes: int
    samples: int
    fault: str | None = None
    timing: Timing | None = None
    ratio: Ratio | None = None
    memory: Memory | None = None
    metric: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    predicted_latency_s: float | None = None
    predicted_ratio: float | None = None
    predicted_peak_bytes: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def throughput_per_s(self) -> float | None:
        """Samples in a second."""
        return None if self.timing is None else self.timing.throughput_per_s(self.samples)

    def to_json(self) -> dict[str, object]:
        """The row as JSON values."""
        timing = self.timing
        measured: dict[str, object] = {}
        if timing is not None:
            measured = {
                "latency_s": timing.latency_s,
                "latency_p95_s": timing.latency_p95_s,
                "cpu_s": timing.cpu_s,
                "throughput_per_s": self.throughput_per_s,
                "ratio": None if self.ratio is None else asdict(self.ratio),
                "memory": None if self.memory is None else asdict(self.memory),
                "metric": {data: dict(values) for data, values in self.metric.items()},
                "rounds_wall_s": [list(turn.wall_s) for turn in timing.turns],
                "rounds_cpu_s": [list(turn.cpu_s) for turn in timing.turns],
            }
        return {
            "name": self.name,
            "runtime": self.runtime,
            "file_bytes": self.file_bytes,
            "fault": self.fault,
            **measured,
            "predicted_latency_s": self.predicted_latency_s,
            "predicted_ratio": self.predicted_ratio,
            "predicted_peak_bytes": self.predicted_peak_bytes,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Bench:
    """Candidates of one model side by side.

    Attributes:
        model: its name.
        inputs: one call's, in words.
        primary: names of headline metrics, by data set.
        notes: of the whole.
    """

    model: str
    inputs: str
    settings: Settings
    machine: Machine
    rows: tuple[Row, ...]
    primary: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Everything as JSON values."""
        return {
            "mixq_version": __version__,
            "model": self.model,
            "inputs": self.inputs,
            "settings": asdict(self.settings),
            "machine": asdict(self.machine),
            "primary_metric": dict(self.primary),
            "rows": [row.to_json() for row in self.rows],
            "notes": list(self.notes),
        }


def _processor() -> str:
    """Name of the processor; Linux has it in /proc/cpuinfo alone."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
