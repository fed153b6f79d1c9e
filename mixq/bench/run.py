"""Bench run: candidates are loaded, warmed, timed in interleaved rounds, judged and weighed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from mixq.batch import Batch, describe, sample_count
from mixq.bench.candidate import Candidate
from mixq.bench.memory import Memory, measure_memory, write_batch
from mixq.bench.result import BASE, Bench, Machine, Row, Settings
from mixq.bench.timing import measure, warm
from mixq.bench.workload import workload
from mixq.calibration import Calibration
from mixq.errors import ExportError, MissingExtraError, MixqError, WorkerError
from mixq.export.module import RuntimeModule
from mixq.export.registry import runtime as runtime_named
from mixq.export.runtime import Session
from mixq.files import one_line
from mixq.progress import Progress, silent, track
from mixq.sensitivity.compare import Evaluate, judged
from mixq.workshop import scratch

JUDGING = "evaluating in the runtime"
WEIGHING = "measuring memory"


def bench(
    candidates: Sequence[Candidate],
    calibration: Calibration,
    settings: Settings,
    *,
    model: str = "model",
    evaluate: Mapping[str, Evaluate] | None = None,
    notes: Sequence[str] = (),
    progress: Progress = silent,
) -> Bench:
    """Run candidates side by side.

    Args:
        candidates: one named `fp32` is what the others are compared with.
        calibration: its first sample, repeated, is what is timed.
        settings: threads, batch size and rounds.
        model: its name.
        evaluate: metrics of the model on labelled data, by name of the data.
        notes: of the whole.
        progress: is told how far it is.

    Raises:
        ExportError: if no candidate runs, with the reason of the first.
        MissingExtraError: if a runtime is not installed.
        UsageError: if so many samples find no room in memory, or have fewer tokens.
    """
    batch = workload(calibration, settings.batch_size, settings.sequence)
    machine = Machine.here()
    rows = {c.name: _row(c, sample_count(batch)) for c in candidates}
    found = {c.name: c for c in candidates if c.path is not None}
    with _opened(found, batch, settings.threads) as (sessions, warm_s, faults):
        rows |= {name: replace(rows[name], fault=fault) for name, fault in faults.items()}
        if not sessions:
            first = next(iter(rows.values()))
            raise ExportError(f"nothing runs: {first.name}: {first.fault}")
        timings = measure(
            sessions, batch, repeat=settings.repeat, warm_s=warm_s, seed=settings.seed,
            progress=progress,
        )  # fmt: skip
        for name, timing in timings.items():
            ratio = timing.ratio(timings[BASE]) if BASE in timings else None
            rows[name] = replace(rows[name], timing=timing, ratio=ratio)
        for name, row in _judged(rows, sessions, evaluate or {}, progress):
            rows[name] = row
    for name, row in _weighed(rows, found, list(timings), batch, settings.threads, progress):
        rows[name] = row
    primary = {
        data: headline for data, one in (evaluate or {}).items()
        for headline in [_primary(one, data, rows)] if headline
    }  # fmt: skip
    return Bench(
        model, describe(batch), settings, machine, tuple(rows.values()), primary, tuple(notes)
    )


def _row(candidate: Candidate, samples: int) -> Row:
    predicted = candidate.predicted
    return Row(
        name=candidate.name,
        runtime=candidate.runtime,
        file_bytes=candidate.file_bytes,
        samples=samples,
        fault=candidate.fault,
        predicted_latency_s=None if predicted is None else predicted.latency_s,
        predicted_ratio=None if predicted is None else predicted.ratio,
        predicted_peak_bytes=None if predicted is None else predicted.peak_memory_bytes,
        notes=candidate.notes,
    )


@contextmanager
def _opened(
    found: Mapping[str, Candidate], batch: Batch, threads: int
) -> Iterator[tuple[dict[str, Session], dict[str, float], dict[str, str]]]:
    """Warm sessions, what their calls take, and why others are not there."""
    sessions: dict[str, Session] = {}
    warm_s: dict[str, float] = {}
    faults: dict[str, str] = {}
    try:
        for name, candidate in found.items():
            assert candidate.path is not None
            try:
                session = runtime_named(candidate.runtime).open(candidate.path, threads=threads)
                try:
                    warm_s[name] = warm(session, batch)
                    sessions[name] = session
                finally:
                    if name not in sessions:
                        session.close()
            except MissingExtraError:
                raise
            except MixqError as error:
                faults[name] = one_line(error)
        yield sessions, warm_s, faults
    finally:
        for session in sessions.values():
            session.close()


def _judged(
    rows: Mapping[str, Row],
    sessions: Mapping[str, Session],
    evaluate: Mapping[str, Evaluate],
    progress: Progress,
) -> Iterator[tuple[str, Row]]:
    """Rows with metrics of the model's own evaluation, the session in the model's place."""
    if not evaluate:
        return
    for name, session in track(list(sessions.items()), JUDGING, len(sessions), progress):
        row, module = rows[name], RuntimeModule(session)
        for data, one in evaluate.items():
            try:
                row = replace(row, metric={**row.metric, data: judged(one, module)})
            except MixqError as error:
                row = replace(row, notes=(*row.notes, f"{data} cannot judge it: {error}"))
        yield name, row


def _weighed(
    rows: Mapping[str, Row],
    found: Mapping[str, Candidate],
    names: Sequence[str],
    batch: Batch,
    threads: int,
    progress: Progress,
) -> Iterator[tuple[str, Row]]:
    """Rows with the memory of a fresh process, once no session of ours is open."""
    with scratch("mixq-bench") as folder:
        file = folder / "batch.safetensors"
        write_batch(batch, file)
        for name in track(names, WEIGHING, len(names), progress):
            path, row = found[name].path, rows[name]
            assert path is not None
            try:
                memory: Memory | None = measure_memory(row.runtime, path, file, threads)
            except WorkerError as error:
                memory, row = None, replace(row, notes=(*row.notes, str(error)))
            yield name, replace(row, memory=memory)


def _primary(evaluate: Evaluate, data: str, rows: Mapping[str, Row]) -> str | None:
    """The metric that `evaluate` names as its headline, else its first."""
    names = next((list(row.metric[data]) for row in rows.values() if data in row.metric), [])
    wanted = getattr(evaluate, "primary", None)
    return wanted if wanted in names else next(iter(names), None)
