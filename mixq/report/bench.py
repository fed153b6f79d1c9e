"""The files of a bench: its numbers and its plot."""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path

from mixq.bench.result import Bench
from mixq.bench.suite import Suite
from mixq.files import make_folder, write_bytes_atomic, write_json_atomic, write_text_atomic
from mixq.report.bench_view import BenchView
from mixq.workshop import sweep


def write_bench(bench: Bench, folder: Path) -> list[Path]:
    """Write bench.json, bench.html and bench.png; the page needs no network.

    Raises:
        OutputError: if the folder or a file cannot be written.
    """
    make_folder(folder)
    sweep(folder)
    file = folder / "bench.json"
    write_json_atomic(file, bench.to_json())
    return [file, *_draw(bench, folder, "bench")]


def write_suite(suite: Suite, folder: Path) -> list[Path]:
    """Write bench.json and bench.csv, and a plot of each model.

    Raises:
        OutputError: if the folder or a file cannot be written.
    """
    make_folder(folder)
    sweep(folder)
    rows = [row.to_json() for row in suite.rows]
    files = [folder / "bench.json", folder / "bench.csv"]
    write_json_atomic(files[0], suite_json(suite))
    text = StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text_atomic(files[1], text.getvalue())
    for index, bench in enumerate(suite.benches.values(), start=1):
        # Numbers, because a model's name need not be one that a file may have.
        files += _draw(bench, folder, f"bench-{index}")
    return files


def suite_json(suite: Suite) -> dict[str, object]:
    """A suite as JSON values: its rows, and the bench of each model with all its rounds."""
    return {
        "suite": suite.file.model_dump(mode="json"),
        "rows": [row.to_json() for row in suite.rows],
        "benches": [bench.to_json() for bench in suite.benches.values()],
        "faults": suite.faults,
    }


def _draw(bench: Bench, folder: Path, stem: str) -> list[Path]:
    from mixq.report.bench_matplotlib import picture
    from mixq.report.bench_plotly import page

    files = [folder / f"{stem}.html", folder / f"{stem}.png"]
    view = BenchView.of(bench)
    write_text_atomic(files[0], page(view))
    write_bytes_atomic(files[1], picture(view))
    return files
