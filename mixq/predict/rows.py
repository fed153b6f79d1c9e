"""Reading tables of measurements or questions, and writing them again with predictions."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from mixq.errors import UsageError
from mixq.files import atomic_path, one_line, read_bounded
from mixq.predict.prediction import Prediction, Refusal
from mixq.predict.row import RATIO, SECONDS, UNITS, Row

COLUMNS: Final = (
    *("chip", "cores_or_threads", "runtime", "kernel", "model_or_op", "M", "N", "K", "batch"),
    *("seq", "weight_bits", "act_bits", "group_size", "metric", "value", "unit"),
)
"""What is read; of these `NEEDED` have to be there, and other columns are kept as they are."""
ADDED: Final = ("kernel", "predicted", "low", "high", "refused", "basis", "kernel_asked")
"""What a predicted row has beside what it had: `kernel` is the one that was priced."""
NEEDED: Final = ("model_or_op", "weight_bits", "metric", "unit")
MAX_BYTES: Final = 64 * 2**20


def read_rows(path: Path) -> tuple[tuple[str, ...], list[Row]]:
    """Columns and rows of a CSV file in the columns of published tables.

    Raises:
        UsageError: if it is no such file; one line with file, line and column.
    """
    text = read_bounded(path, MAX_BYTES, UsageError, "rows").removeprefix("\ufeff")
    return parse_rows(text, origin=one_line(path))


def parse_rows(text: str, *, origin: str) -> tuple[tuple[str, ...], list[Row]]:
    """As `read_rows`, of a text that errors call `origin`."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = tuple(next(reader, ()))
        missing = [name for name in NEEDED if name not in header]
        if missing:
            raise UsageError(
                f"{origin}: line 1 has no column {missing[0]!r}; the columns are "
                f"{', '.join(COLUMNS)} (others are kept)"
            )
        twice = next((name for name in header if header.count(name) > 1), None)
        if twice is not None:
            raise UsageError(f"{origin}: line 1 has column {twice[:40]!r} twice; name it once")
        rows = []
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise UsageError(
                    f"{origin}: line {reader.line_num} has {len(cells)} cells and the header "
                    f"{len(header)}; quote cells that hold commas"
                )
            rows.append(_row(dict(zip(header, cells, strict=True)), reader.line_num, origin))
    except csv.Error as error:
        raise UsageError(
            f"{origin}: line {reader.line_num} is no CSV ({one_line(error, 80)}); mend it"
        ) from error
    return header, rows


def write_rows(
    path: Path,
    header: Sequence[str],
    rows: Iterable[tuple[Row, Sequence[str]]],
    added: Sequence[str],
) -> None:
    """The rows as they were read, each with the cells of the columns `added`.

    Raises:
        OutputError: if the file cannot be written.
    """
    kept = [name for name in header if name not in added]
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((*kept, *added))
        for row, cells in rows:
            given = dict(row.cells)
            writer.writerow((*(given[name] for name in kept), *cells))


def cells_of(row: Row, answer: Prediction | Refusal) -> tuple[str, ...]:
    """The cells of `ADDED`; a prediction in the row's unit, to six digits."""
    if isinstance(answer, Refusal):
        return (row.kernel, "", "", "", answer.reason, "", row.kernel)
    numbers = (answer.predicted, answer.low, answer.high)
    return (answer.kernel, *(f"{number:.6g}" for number in numbers), "", answer.note, row.kernel)


def question(
    *,
    m: int | None,
    n: int | None,
    k: int | None,
    model: str,
    batch: int,
    seq: str,
    weight_bits: float,
    activation_bits: float | None,
    group_size: int | None,
    runtime: str,
    kernel: str,
    threads: int | None,
) -> Row:
    """A row that asks for a latency; the same rules hold as for a file.

    Raises:
        UsageError: if a number breaks a rule.
    """
    shape = {"M": m, "N": n, "K": k}
    given = {**shape, "batch": batch, "weight_bits": weight_bits, "act_bits": activation_bits}
    given |= {"group_size": group_size, "cores_or_threads": threads}
    text = {name: "" if value is None else str(value) for name, value in given.items()}
    names = {"model_or_op": model, "seq": seq, "runtime": runtime, "kernel": kernel}
    unit = "ms" if None in shape.values() else "us"
    return _row({**text, **names, "metric": "latency", "unit": unit}, 1, "the question")


def _row(cells: dict[str, str], line: int, origin: str) -> Row:
    def text(name: str) -> str:
        return cells.get(name, "").strip()

    def refuse(name: str, rule: str) -> UsageError:
        return UsageError(
            f"{origin}: line {line}, {name}: {rule}, got {one_line(text(name), 40)!r}; mend it"
        )

    def number(name: str) -> float | None:
        if not text(name):
            return None
        try:
            value = float(text(name))
        except ValueError:
            raise refuse(name, "a number is needed") from None
        if not (math.isfinite(value) and value > 0):
            raise refuse(name, "a positive finite number is needed")
        return value

    def count(name: str) -> int | None:
        value = number(name)
        if value is None:
            return None
        if not value.is_integer() or value > 2**40:
            raise refuse(name, "a whole number up to 2^40 is needed")
        return int(value)

    bits = number("weight_bits")
    if bits is None or bits > 32:
        raise refuse("weight_bits", "bits of a weight, above 0 and at most 32, are needed")
    activation_bits = number("act_bits")
    if activation_bits is not None and activation_bits > 32:
        raise refuse("act_bits", "bits of an activation are at most 32")
    group = text("group_size")
    size = None if not group or group.startswith("per-") else count("group_size")
    unit, metric = text("unit"), text("metric")
    if unit not in UNITS:
        raise refuse("unit", f"a unit is one of {', '.join(UNITS)}")
    expected = next((kind for word, kind in _KINDS.items() if word in metric), None)
    kind = "time" if unit in SECONDS else "ratio" if unit == RATIO else "rate"
    if expected is None:
        raise refuse("metric", f"a metric names one of {', '.join(_KINDS)}")
    if expected != kind:
        raise refuse("unit", f"{metric} is a {expected} and this a {kind}")
    row = Row(
        line=line,
        chip=text("chip"),
        cores_or_threads=text("cores_or_threads"),
        runtime=text("runtime"),
        kernel=text("kernel"),
        model_or_op=text("model_or_op"),
        m=count("M"),
        n=count("N"),
        k=count("K"),
        batch=count("batch"),
        seq=text("seq"),
        weight_bits=bits,
        activation_bits=activation_bits,
        group_size=size,
        metric=metric,
        value=number("value"),
        unit=unit,
        note=text("note"),
        cells=tuple(cells.items()),
    )
    if (row.n is None) != (row.k is None) or (row.n is not None and row.m is None):
        raise refuse("M", "a product needs M, N and K, and a model none of N and K")
    return row


_KINDS: Final = {"latency": "time", "throughput": "rate", "speedup": "ratio"}
