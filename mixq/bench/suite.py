"""Suite: every method on every model and data set of a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, cast

from mixq.bench.candidate import Candidate, check_runtime
from mixq.bench.exporting import export_all
from mixq.bench.result import BASE, Bench, Row, Settings
from mixq.bench.run import bench
from mixq.bench.suite_file import MethodName, MixedFile, ModelFile, SuiteFile
from mixq.bench.uniform import float_plan, uniform_plans
from mixq.bench.workload import workload
from mixq.calibration import Calibration
from mixq.errors import ExportError, MixqError
from mixq.files import one_line
from mixq.formats import Format
from mixq.plan import Plan
from mixq.progress import Progress, silent
from mixq.search.call import search
from mixq.search.request import DEFAULT_TRIALS
from mixq.sources import LoadedModel, load_calibration, load_model
from mixq.sources.function import find_function
from mixq.workshop import scratch

if TYPE_CHECKING:
    from mixq.sensitivity.compare import Evaluate

FORMATS: Final[dict[MethodName, Format]] = {
    # One bit less than 8: x86 kernels without VNNI add pairs of products in 16 bits and saturate.
    "int8_dynamic": Format(8, None, "reduced", method="gptq", activation="dynamic"),
    "int8_static": Format(8, None, "reduced", method="gptq", activation="static"),
    "int4_grouped": Format(4, 64, "zero-point", method="gptq"),
}


@dataclass(frozen=True)
class SuiteRow:
    """One method on one data set of one model.

    Attributes:
        metric, accuracy: name and value of the headline metric, computed through the runtime;
            None if there is none or it failed.
        row: everything else that was measured.
    """

    model: str
    data: str
    method: str
    metric: str | None
    accuracy: float | None
    row: Row

    def to_json(self) -> dict[str, object]:
        """The row under the names of the source article's benchmark, and what else there is."""
        row, timing = self.row, self.row.timing
        return {
            "model": self.model,
            "data": self.data,
            "method": self.method,
            "accuracy": self.accuracy,
            "latency_ms": None if timing is None else timing.latency_s * 1e3,
            "model_size_mb": row.file_bytes / 1e6 if row.file_bytes else None,
            "throughput": row.throughput_per_s,
            "metric": self.metric,
            "latency_p95_ms": None if timing is None else timing.latency_p95_s * 1e3,
            "time_ratio": None if row.ratio is None else row.ratio.wall.median,
            "cpu_ratio": None if row.ratio is None else row.ratio.cpu.median,
            "peak_memory_mb": None if row.memory is None else row.memory.peak_bytes / 1e6,
            "fault": row.fault,
            "notes": "; ".join(row.notes),
        }


@dataclass(frozen=True)
class Suite:
    """What a suite measured: a bench for each model, or why there is none."""

    file: SuiteFile
    benches: dict[str, Bench]
    faults: dict[str, str]

    @property
    def rows(self) -> list[SuiteRow]:
        """A row for every model, data set and method, in the order of the file."""
        return [
            _row(model, data.name, row, self.benches.get(model.name))
            for model in self.file.models
            for data in model.data
            for row in self._rows(model)
        ]

    def _rows(self, model: ModelFile) -> tuple[Row, ...]:
        if model.name in self.benches:
            return self.benches[model.name].rows
        fault, runtime = self.faults[model.name], self.file.runtime
        return tuple(Row(name, runtime, 0, 0, fault=fault) for name in self.file.methods)


def run_suite(file: SuiteFile, progress: Progress = silent) -> Suite:
    """Run every method on every model; what fails says so in its rows.

    Raises:
        PlanError: if a plan cannot be read.
        UsageError: if there is no such runtime.
        ExportError: if no model runs, with the reason of the first.
    """
    check_runtime(file.runtime)
    plans = {
        model.name: Plan.load(model.mixed.plan)
        for model in file.models
        if "mixed" in file.methods and model.mixed is not None and model.mixed.plan is not None
    }
    benches: dict[str, Bench] = {}
    faults: dict[str, str] = {}
    for model in file.models:
        try:
            benches[model.name] = _bench(file, model, plans.get(model.name), progress)
        except MixqError as error:
            faults[model.name] = one_line(error)
    if not benches:
        name, fault = next(iter(faults.items()))
        raise ExportError(f"no model of the suite runs; {one_line(name)}: {fault}")
    return Suite(file, benches, faults)


def _bench(file: SuiteFile, model: ModelFile, mixed: Plan | None, progress: Progress) -> Bench:
    loaded = load_model(model.spec)
    calibration = load_calibration(model.calibration, loaded)
    evaluations = dict(_evaluations(model, loaded))

    def told(stage: str, done: int, total: int) -> None:
        progress(f"{model.name}: {stage}", done, total)

    settings = Settings(file.threads, file.batch_size, file.repeat, file.seed, model.sequence)
    workload(calibration, settings.batch_size, settings.sequence)  # refused before minutes of work
    with scratch("mixq-bench") as folder:
        plans, faults = _plans(file, model, mixed, loaded, calibration, told)
        made = export_all(
            loaded.model, plans, file.runtime, folder, calibration,
            tokenizer=loaded.folder, progress=told,
        )  # fmt: skip
        files = {candidate.name: candidate for candidate in made}
        files |= {
            name: Candidate(name, file.runtime, None, fault=why) for name, why in faults.items()
        }
        return bench(
            [files[name] for name in file.methods], calibration, settings,
            model=model.name, evaluate=evaluations, progress=told,
        )  # fmt: skip


def _evaluations(model: ModelFile, loaded: LoadedModel) -> Iterator[tuple[str, Evaluate]]:
    """The evaluation of each data set; the model's own may be missing."""
    for data in model.data:
        if data.evaluate is not None:
            yield data.name, cast("Evaluate", find_function(data.evaluate))
        elif loaded.evaluate is not None:
            yield data.name, loaded.evaluate


def _plans(
    file: SuiteFile,
    model: ModelFile,
    mixed: Plan | None,
    loaded: LoadedModel,
    calibration: Calibration,
    progress: Progress,
) -> tuple[dict[str, Plan], dict[str, str]]:
    """Plans by method, and why there are none for others."""
    plans: dict[str, Plan] = {}
    faults: dict[str, str] = {}
    if BASE in file.methods:
        plans[BASE] = float_plan(loaded.model, model.name)
    formats = {name: FORMATS[name] for name in file.methods if name in FORMATS}
    if formats:
        made = uniform_plans(
            loaded.model, calibration, list(formats.values()), name=model.name, progress=progress
        )
        plans |= {name: made[fmt] for name, fmt in formats.items()}
    if "mixed" in file.methods:
        try:
            plans["mixed"] = mixed or _searched(model, loaded, calibration, progress)
        except MixqError as error:
            faults["mixed"] = one_line(error)
    return plans, faults


def _searched(
    model: ModelFile, loaded: LoadedModel, calibration: Calibration, progress: Progress
) -> Plan:
    wanted = cast("MixedFile", model.mixed)
    return search(
        loaded.model, calibration, hardware=wanted.hardware, evaluate=loaded.evaluate,
        target_compression=wanted.target_compression, trials=wanted.trials or DEFAULT_TRIALS,
        name=model.name, progress=progress,
    ).plan  # fmt: skip


def _row(model: ModelFile, data: str, row: Row, done: Bench | None) -> SuiteRow:
    values = row.metric.get(data, {})
    wanted = next(one.metric for one in model.data if one.name == data)
    metric = wanted or (None if done is None else done.primary.get(data))
    if wanted is not None and values and wanted not in values:
        row = replace(
            row, notes=(*row.notes, f"{data} has no metric {wanted!r:.60}: {', '.join(values)}")
        )
    return SuiteRow(
        model.name, data, row.name, metric, None if metric is None else values.get(metric), row
    )
