"""mixq bench on a tiny model: what it answers, what it writes, what it refuses."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REFUSED, USAGE = 1, 2
QUICK = ("--repeat", "2")
ROWS = ["fp32", "uniform 8", "uniform 4", "plan"]
SUITE = """
name = "tiny models"
repeat = 2
methods = ["fp32", "int8_dynamic", "mixed"]

[[models]]
name = "tiny"
spec = "tiny.py:judged"
[models.mixed]
plan = "run/plan.json"
[[models.data]]
name = "inputs"
[[models.data]]
name = "noise"
evaluate = "tiny.py:noise"
metric = "five"
[[models.data]]
name = "more noise"
evaluate = "tiny.py:noise"
metric = "six"

[[models]]
name = "lost"
spec = "nowhere.py:load"
[models.mixed]
target_compression = 6
"""
NOISE = """

def noise(model):
    torch.manual_seed(2)
    return {"power": float(model(torch.randn(5, 32)).square().mean()), "five": 5.0}
"""


@pytest.fixture
def unweighed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a process for each candidate, which takes seconds to start."""
    monkeypatch.setattr("mixq.bench.run.measure_memory", lambda *_: None)


@pytest.fixture
def plan(search: Callable[..., Any]) -> Path:
    assert search("--target-compression", "5", "--rounds", "0", model="judged").status == 0
    return Path("run/plan.json")


@pytest.mark.slow
def test_a_plan_and_its_file_beside_fp32_and_uniform(cli: Callable[..., Any], plan: Path) -> None:
    model = ("--model", "tiny.py:judged")
    assert cli("export", plan, *model, "--output", "mixed.onnx").status == 0
    answer = cli(
        "bench", plan, "mixed.onnx", *model, *QUICK, "--batch-size", "3", "--output", "out",
        "--format", "json",
    )  # fmt: skip
    assert answer.status == 0, answer.err
    found = answer.json
    assert [row["name"] for row in found["rows"]] == [*ROWS, "mixed.onnx"]
    rows = {row["name"]: row for row in found["rows"]}
    assert [row["fault"] for row in found["rows"]] == [None] * 5
    assert found["inputs"] == "float32 (3, 32)"
    assert rows["fp32"]["ratio"]["wall"]["median"] == 1
    for row in found["rows"]:
        assert len(row["rounds_wall_s"]) == len(row["rounds_cpu_s"]) == 2
        assert row["throughput_per_s"] == 3 / row["latency_s"]
        assert row["latency_p95_s"] >= row["latency_s"] > 0
        assert row["memory"]["peak_bytes"] > 0
    # The file of the plan is the plan's, byte for byte as large, and judged alike.
    assert rows["mixed.onnx"]["file_bytes"] == rows["plan"]["file_bytes"]
    assert rows["plan"]["file_bytes"] < rows["fp32"]["file_bytes"]
    assert rows["mixed.onnx"]["metric"] == rows["plan"]["metric"]
    # The original's outputs are the reference, so fp32 is closest, and close to it.
    closeness = {name: row["metric"]["tiny.py:judged"]["closeness"] for name, row in rows.items()}
    assert closeness["fp32"] == max(closeness.values())
    assert closeness["fp32"] == pytest.approx(0, abs=1e-9)
    said = json.loads(plan.read_text(encoding="utf-8"))
    predicted = said["predicted"]
    assert rows["plan"]["predicted_latency_s"] == predicted["latency_s"]
    ratio = predicted["latency_s"] / predicted["baseline_latency_s"]
    assert rows["plan"]["predicted_ratio"] == ratio
    assert rows["uniform 8"]["predicted_latency_s"] == said["uniform"]["8"]["latency_s"]
    assert rows["fp32"]["predicted_ratio"] == 1
    assert rows["mixed.onnx"]["predicted_ratio"] is None
    assert found["files"] == [f"out/bench.{kind}" for kind in ("json", "html", "png")]
    kept = json.loads(Path("out/bench.json").read_text(encoding="utf-8"))
    assert {**kept, "files": found["files"]} == found
    assert Path("out/bench.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("unweighed")
def test_the_table_names_everything(cli: Callable[..., Any], plan: Path) -> None:
    Path("broken.onnx").write_bytes(b"no model")
    model = ("--model", "tiny.py:judged")
    answer = cli("bench", plan, "broken.onnx", *model, *QUICK, "--threads", "2")
    assert answer.status == 0, "the others go on"
    for words in (
        *ROWS,
        "closeness",
        "2 threads, batch 1, 2 interleaved rounds",
        "float32 (1, 32)",
    ):
        assert words in answer.out
    assert "broken.onnx did not run: broken.onnx does not load in ONNX Runtime" in answer.out
    assert "note: plan: predicted for intel_cpu, onnxruntime, 8 threads, batch 1" in answer.err
    table = answer.out.partition("broken.onnx did not run")[0]
    assert max(map(len, table.splitlines())) <= 160


def test_a_suite(cli: Callable[..., Any], plan: Path) -> None:
    with Path("tiny.py").open("a", encoding="utf-8") as file:
        file.write(NOISE)
    Path("suite.toml").write_text(SUITE, encoding="utf-8")
    answer = cli("bench", "--suite", "suite.toml", "--repeat", "3", "--output", "out",
                 "--format", "json")  # fmt: skip
    assert answer.status == 0, answer.err
    found = answer.json
    methods = ["fp32", "int8_dynamic", "mixed"]
    assert [(row["model"], row["data"], row["method"]) for row in found["rows"]] == [
        (model, data, method)
        for model, data in (
            ("tiny", "inputs"),
            ("tiny", "noise"),
            ("tiny", "more noise"),
            ("lost", "its own"),
        )
        for method in methods
    ]
    tiny, without, lost = found["rows"][:6], found["rows"][6:9], found["rows"][9:]
    assert [row["metric"] for row in tiny] == ["closeness"] * 3 + ["five"] * 3
    assert [row["accuracy"] for row in tiny[3:]] == [5.0] * 3, "not the function's first metric"
    for row in without:
        assert row["accuracy"] is None
        assert "more noise has no metric 'six': power, five" in row["notes"]
    for row in tiny:
        assert row["fault"] is None
        assert isinstance(row["accuracy"], float)
        assert row["throughput"] == pytest.approx(1e3 / row["latency_ms"])
        assert row["model_size_mb"] > 0
    # One run: every data set of a model has the same times.
    assert [row["latency_ms"] for row in tiny[:3]] == [row["latency_ms"] for row in tiny[3:]]
    assert len(found["benches"][0]["rows"][0]["rounds_wall_s"]) == 3, "the option goes first"
    assert all("nowhere.py" in row["fault"] for row in lost)
    assert all(row["accuracy"] is row["latency_ms"] is None for row in lost)
    with Path("out/bench.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["method"] for row in table] == methods * 4
    columns = ["model", "data", "method", "accuracy", "latency_ms", "model_size_mb", "throughput"]
    assert list(table[0])[:7] == columns
    assert Path("out/bench-1.png").is_file()


@pytest.mark.slow
def test_the_example_suite_runs_on_the_demo(cli: Callable[..., Any]) -> None:
    example = Path(__file__).parents[2] / "examples" / "bench_suite.toml"
    text = example.read_text(encoding="utf-8")
    ends = [at for at in range(len(text)) if text.startswith("[[models]]", at)]
    Path("demo.toml").write_text(text[: ends[1]], encoding="utf-8")
    answer = cli("bench", "--suite", "demo.toml", "--repeat", "2", "--format", "json")
    assert answer.status == 0, answer.err
    rows = {row["method"]: row for row in answer.json["rows"]}
    assert list(rows) == ["fp32", "int8_dynamic", "int8_static", "int4_grouped", "mixed"]
    for row in rows.values():
        assert row["fault"] is None
        assert (row["data"], row["metric"]) == ("digits", "accuracy")
        assert row["accuracy"] > 0.98
    sizes = {method: row["model_size_mb"] for method, row in rows.items()}
    assert sizes["fp32"] > 3 * sizes["int8_dynamic"] > 3 * sizes["int4_grouped"]


REFUSALS: dict[str, tuple[tuple[str, ...], int, str]] = {
    "nothing": (("bench",), USAGE, "there is nothing to bench; pass a plan.json or an exported"),
    "no-plan": (("bench", "none.json"), REFUSED, "none.json is not a file"),
    "no-file": (("bench", "none.onnx"), USAGE, "none.onnx does not exist"),
    "unknown-kind": (("bench", "tiny.py"), USAGE, "tiny.py is no file that a runtime loads"),
    "twice": (("bench", "a.json", "a.json"), USAGE, "a file is named twice"),
    "threads": (("bench", "p.json", "--threads", "0"), USAGE, "--threads"),
    "batch": (("bench", "p.json", "--batch-size", "0"), USAGE, "--batch-size"),
    "repeat": (("bench", "p.json", "--repeat", "0"), USAGE, "--repeat"),
    "sequence": (("bench", "p.json", "--sequence", "0"), USAGE, "--sequence"),
    "runtime": (("bench", "p.json", "--runtime", "caffe"), USAGE, "runtime 'caffe' is unknown"),
    "runtime-torch": (
        ("bench", "p.json", "--runtime", "torch"),
        USAGE,
        "'torch' hold no architecture, so a fresh process cannot run them; mixq evaluate",
    ),
    "suite-missing": (("bench", "--suite", "none.toml"), USAGE, "none.toml is not a file"),
    "suite-and-plan": (("bench", "p.json", "--suite", "s.toml"), USAGE, "leave out PLAN|FILE"),
    "suite-and-model": (("bench", "--model", "demo", "--suite", "s.toml"), USAGE, "leave out"),
    "suite-word": (("bench", "--suite", "tiny.py"), USAGE, "not readable as TOML"),
}


@pytest.mark.parametrize(("arguments", "status", "words"), REFUSALS.values(), ids=REFUSALS)
def test_refused_in_one_line(
    cli: Callable[..., Any], arguments: tuple[str, ...], status: int, words: str
) -> None:
    answer = cli(*arguments, "--output", "out")
    assert words in answer.error
    assert answer.status == status
    assert answer.out == ""
    assert not Path("out").exists()


def test_a_plan_for_another_model_is_refused(cli: Callable[..., Any], plan: Path) -> None:
    answer = cli("bench", plan, "--model", "tiny.py:other")
    assert answer.status == REFUSED
    assert "but this model's weights are" in answer.error
    assert answer.out == ""


def test_a_suite_with_a_plan_that_is_not_there_is_refused(cli: Callable[..., Any]) -> None:
    Path("suite.toml").write_text(SUITE, encoding="utf-8")
    answer = cli("bench", "--suite", "suite.toml")
    assert answer.status == REFUSED
    assert "run/plan.json is not a file" in answer.error


def test_a_sequence_of_images_is_refused(cli: Callable[..., Any], plan: Path) -> None:
    answer = cli("bench", plan, "--model", "tiny.py:judged", *QUICK, "--sequence", "4")
    assert answer.status == USAGE
    assert "is no sequence of tokens" in answer.err
