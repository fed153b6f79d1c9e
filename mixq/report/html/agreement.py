"""Agreement: what was predicted beside what was measured."""

from __future__ import annotations

from dataclasses import dataclass

from mixq.files import one_line
from mixq.plan import Plan
from mixq.report.bench_file import BenchFile, BenchRow
from mixq.report.html.figures import bytes_text, number, time_text
from mixq.search.audit import Audit


@dataclass(frozen=True)
class Pair:
    """One quantity."""

    what: str
    predicted: str
    measured: str
    ratio: str


@dataclass(frozen=True)
class Ran:
    """One candidate of a bench."""

    name: str
    fault: str
    file: str
    latency: str
    predicted_latency: str
    ratio: str
    predicted_ratio: str
    peak: str
    metric: str


@dataclass(frozen=True)
class Agreement:
    """Errors of the plan, and a bench where there is one.

    Attributes:
        where: what the bench ran on, in words.
    """

    pairs: tuple[Pair, ...]
    ran: tuple[Ran, ...]
    where: str
    metric_title: str

    @classmethod
    def of(cls, plan: Plan, audit: Audit | None, bench: BenchFile | None) -> Agreement:
        """Of a plan, what its audit measured, and a bench of it."""
        found, measured = plan.predicted, plan.measured
        name = plan.error_metric.name
        error = "output error" if name == "mse" else f"output error ({one_line(name, 40)})"
        pairs = []
        again = audit is not None and audit.plan.measured != measured.error
        if audit is not None and again:
            pairs.append(
                Pair(
                    f"{error}, calibration data", number(found.error),
                    f"{number(audit.plan.measured)} ± {number(audit.plan.measured_se, 1)}",
                    _ratio(audit.plan.measured, found.error),
                )
            )  # fmt: skip
        pairs.append(
            Pair(
                f"{error}, calibration data that the last rounding has learnt from"
                if again
                else f"{error}, calibration data",
                "" if again else number(found.error),
                f"{number(measured.error)} ± {number(measured.error_se, 1)}",
                "" if again else _ratio(measured.error, found.error),
            )
        )
        if measured.heldout_error is not None:
            pairs.append(
                Pair(
                    f"{error}, held-out data", number(found.error),
                    number(measured.heldout_error), _ratio(measured.heldout_error, found.error),
                )
            )  # fmt: skip
        if bench is None:
            return cls(tuple(pairs), (), "", "")
        s, machine = bench.settings, bench.machine
        data, metric = next(iter(bench.primary_metric.items()), ("", ""))
        own = _row_of(plan, bench)
        if own is not None:
            pairs += _of_file(plan, own)
        return cls(
            tuple(pairs),
            tuple(_ran(row, data, metric) for row in bench.rows),
            one_line(
                f"{bench.model}, {bench.inputs}; {machine.processor}, {s.threads} "
                f"thread{'s' * (s.threads != 1)}, batch {s.batch_size}, {s.repeat} rounds, load "
                f"{machine.load:g}"
            ),
            one_line(metric, 40),
        )


def _row_of(plan: Plan, bench: BenchFile) -> BenchRow | None:
    """The candidate that is the plan: the file nearest to its predicted bytes, within 20%."""
    target = plan.predicted.file_bytes or plan.predicted.weight_bytes
    rows = [row for row in bench.rows if row.latency_s is not None and row.name != "fp32"]
    rows = [row for row in rows if not row.name.startswith("uniform ")]
    near = [row for row in rows if abs(row.file_bytes / target - 1) < 0.2] if target else []
    return min(near, key=lambda row: abs(row.file_bytes - target), default=None)


def _of_file(plan: Plan, row: BenchRow) -> list[Pair]:
    found = plan.predicted
    pairs = []
    if found.file_bytes:
        pairs.append(
            Pair(
                "file", bytes_text(found.file_bytes), bytes_text(row.file_bytes),
                _ratio(row.file_bytes, found.file_bytes),
            )
        )  # fmt: skip
    if row.latency_s is not None and row.predicted_latency_s:
        pairs.append(
            Pair(
                "latency", time_text(row.predicted_latency_s), time_text(row.latency_s),
                _ratio(row.latency_s, row.predicted_latency_s),
            )
        )  # fmt: skip
    if row.ratio is not None and row.predicted_ratio:
        pairs.append(
            Pair(
                "time over fp32's", number(row.predicted_ratio), number(row.ratio.wall.median),
                _ratio(row.ratio.wall.median, row.predicted_ratio),
            )
        )  # fmt: skip
    if row.memory is not None:
        pairs.append(
            Pair(
                "peak memory", bytes_text(found.peak_memory_bytes),
                bytes_text(row.memory.peak_bytes),
                _ratio(row.memory.peak_bytes, found.peak_memory_bytes),
            )
        )  # fmt: skip
    return pairs


def _ran(row: BenchRow, data: str, metric: str) -> Ran:
    ratio = row.ratio
    value = row.metric.get(data, {}).get(metric)
    return Ran(
        name=one_line(row.name, 60),
        fault=one_line(row.fault or "", 160),
        file=bytes_text(row.file_bytes) if row.file_bytes else "-",
        latency="-" if row.latency_s is None else time_text(row.latency_s),
        predicted_latency=(
            "-" if row.predicted_latency_s is None else time_text(row.predicted_latency_s)
        ),
        ratio=(
            "-"
            if ratio is None
            else f"{ratio.wall.median:.2f} ({ratio.wall.low:.2f}-{ratio.wall.high:.2f})"
        ),
        predicted_ratio="-" if row.predicted_ratio is None else f"{row.predicted_ratio:.2f}",
        peak="-" if row.memory is None else bytes_text(row.memory.peak_bytes),
        metric="-" if value is None else f"{value:.3f}",
    )


def _ratio(measured: float, predicted: float) -> str:
    return f"{measured / predicted:.2f}" if predicted > 0 else "-"
