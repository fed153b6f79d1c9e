"""What a bench shows: tables, the picture, the page."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from mixq.bench.memory import Memory
from mixq.bench.result import Bench, Machine, Row, Settings
from mixq.bench.suite import Suite
from mixq.bench.suite_file import SuiteFile
from mixq.bench.timing import Timing, Turn
from mixq.report.bench import suite_json, write_bench, write_suite
from mixq.report.bench_matplotlib import picture
from mixq.report.bench_plotly import page
from mixq.report.bench_table import bench_table, faults, suite_faults, suite_table
from mixq.report.bench_view import BenchView

BASE = Timing((Turn((0.004,), (0.003,)), Turn((0.004,), (0.003,))))
HALF = Timing((Turn((0.002,), (0.002,)), Turn((0.001,), (0.002,))))


def row(name: str, timing: Timing = HALF, **more: object) -> Row:
    plain = Row(
        name, "onnxruntime", 2_500_000, 4, timing=timing, ratio=timing.ratio(BASE),
        memory=Memory(8_000_000, 4_000_000, 1_000_000, 16_000_000),
        metric={"words": {"top1": 0.8125}}, predicted_latency_s=0.001, predicted_ratio=0.6,
        predicted_peak_bytes=14_000_000,
    )  # fmt: skip
    return replace(plain, **more)  # type: ignore[arg-type]


FAULTY = Row("uniform 4", "onnxruntime", 0, 4, fault="it differs by 0.03")
BENCH = Bench(
    model="net$x$ <b>",
    inputs="float32 (4, 8)",
    settings=Settings(threads=2, batch_size=4, repeat=2),
    machine=Machine("Some CPU", 2, "Linux", 0.5),
    rows=(row("fp32", BASE), row("uniform 8"), FAULTY, row("plan"), row("a/b.onnx" * 9)),
    primary={"words": "top1"},
)


def text(table: Table, width: int = 160) -> str:
    shown = StringIO()
    Console(width=width, file=shown).print(table)
    return shown.getvalue()


def test_the_table_says_what_was_measured() -> None:
    shown = text(bench_table(BENCH))
    plan = next(line for line in shown.splitlines() if "plan" in line and "0.8125" in line)
    cells = [cell.strip() for cell in plan.strip("│").split("│")]
    assert cells == [
        "plan", "2.5", "1.5", "2", "2", "2,667", "0.375 (0.25-0.5)", "0.667", "1", "0.6", "8",
        "3", "16", "14", "0.8125",
    ]  # fmt: skip
    assert "2 threads, batch 4, 2 interleaved rounds" in shown
    assert faults(BENCH) == ["uniform 4 did not run: it differs by 0.03"]


def test_the_table_is_not_wider_than_a_pipe() -> None:
    many = replace(BENCH, primary={"words": "definition_top1_of_everything"})
    assert max(map(len, text(bench_table(many)).splitlines())) <= 160


def test_the_same_bench_is_the_same_picture() -> None:
    view = BenchView.of(BENCH)
    assert len(view.names) == 4, "what did not run has no bar"
    assert picture(view) == picture(BenchView.of(BENCH))
    assert page(view) == page(BenchView.of(BENCH))
    assert "net$x$ &lt;b&gt;" in page(view)
    assert "<b>: float32" not in page(view)


@pytest.mark.parametrize(
    ("bench", "titles"),
    [
        (BENCH, ["time over fp32's", "file, MB", "resident memory of a fresh process, MB"]),
        (
            replace(BENCH, rows=(row("plan", ratio=None, memory=None),)),
            ["latency, ms", "file, MB"],
        ),
    ],
    ids=["all", "without-fp32-and-memory"],
)
def test_panels_are_of_what_is_known(bench: Bench, titles: list[str]) -> None:
    view = BenchView.of(bench)
    assert [panel.title for panel in view.panels] == titles
    assert all(len(panel.values) == len(view.names) for panel in view.panels)
    picture(view)


def test_files_are_written_whole(tmp_path: Path) -> None:
    files = write_bench(BENCH, tmp_path / "new" / "folder")
    assert [file.name for file in files] == ["bench.json", "bench.html", "bench.png"]
    assert all(file.is_file() for file in files)


def test_a_suite_has_the_columns_of_the_source(tmp_path: Path) -> None:
    models = [{"name": name, "spec": "demo"} for name in ("net", "lost")]
    file = SuiteFile.model_validate(
        {"name": "s", "methods": ["fp32"], "models": models}
        | {"models": [{**one, "data": [{"name": "words"}]} for one in models]}
    )
    bench = replace(BENCH, rows=(row("fp32", BASE),))
    suite = Suite(file, {"net": bench}, {"lost": "it has no weights"})
    rows: Any = suite_json(suite)["rows"]
    first, second = rows
    assert list(first)[3:7] == ["accuracy", "latency_ms", "model_size_mb", "throughput"]
    assert list(first.values())[:7] == ["net", "words", "fp32", 0.8125, 4.0, 2.5, 1000.0]
    assert (second["model"], second["fault"]) == ("lost", "it has no weights")
    shown = text(suite_table(suite))
    assert "0.8125" in shown
    assert suite_faults(suite) == ["lost did not run: it has no weights"]
    names = [path.name for path in write_suite(suite, tmp_path)]
    assert names == ["bench.json", "bench.csv", "bench-1.html", "bench-1.png"]
