"""`mixq search` on the demo and on a tiny model: what it writes, prints, keeps and repeats."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from mixq import demo
from mixq.artifact import tensor_bytes
from mixq.plan import Plan
from mixq.plan_check import check_plan
from mixq.report.records import Records
from mixq.search.audit import Audit
from mixq.sensitivity.metrics.metric import Tensors
from mixq.sensitivity.reference import Reference

RESULTS = {
    "plan.json", "plan.weights.safetensors", "sensitivity.json", "sensitivity.csv",
    "frontier.json", "frontier.csv", "pareto.html", "pareto.png", "sensitivity.html",
    "sensitivity.png", "audit.json", "audit.html", "audit.png", "costs.json", "histogram.json",
    "run.json", "study.journal",
}  # fmt: skip


class Counter:
    """Counts the batches whose outputs are compared with the original's.

    Those of the last roundings are left out: they are done again for every plan that is written.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.measured: list[str] = []
        original = Reference.compared

        def counted(reference: Reference, index: int, outputs: Tensors, what: str) -> list[float]:
            if not what.startswith("rounded "):
                self.measured.append(what)
            return original(reference, index, outputs, what)

        monkeypatch.setattr(Reference, "compared", counted)


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    return Counter(monkeypatch)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_writes_exactly_the_files_of_the_contract(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    extra = names - RESULTS
    assert names >= RESULTS
    kept = ("measurements-", "audit-", "rounded-")
    assert {name for name in extra if not name.startswith(kept)} == {".mixq.lock"}
    # Rounded with three quarters of the data, and with all.
    assert sum(name.startswith("rounded-") for name in extra) == 2


def test_the_files_hold_what_they_say(finished: Path) -> None:
    plan = Plan.load(finished / "plan.json")
    records = Records.load(finished / "frontier.json")
    rows = read_csv(finished / "frontier.csv")
    assert [row["name"] for row in rows] == [record.name for record in records.plans]
    (chosen,) = (record for record in records.plans if record.kind == "chosen")
    assert chosen.weight_bytes == plan.predicted.weight_bytes
    # Beside the others as it was measured beside them, before its last rounding.
    assert chosen.error == Audit.load(finished / "audit.json").plan.measured
    named = dict(zip(records.units, (records.formats[i] for i in chosen.formats), strict=True))
    assert named == {unit: fmt.name for unit, fmt in plan.assignment.items()}
    sensitivity = read_csv(finished / "sensitivity.csv")
    assert {row["unit"] for row in sensitivity} == set(plan.layers)
    run = json.loads((finished / "run.json").read_text(encoding="utf-8"))
    assert run["state"] == "done"
    assert run["identity"]["model"] == plan.model.fingerprint
    assert run["identity"]["hardware"] == plan.hardware.fingerprint
    assert set(run["files"]) == RESULTS - {"run.json", "study.journal"}
    assert (finished / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert "plotly" in (finished / "pareto.html").read_text(encoding="utf-8")[:5_000_000].lower()


def test_the_study_opens_with_optuna_and_holds_every_measured_plan(finished: Path) -> None:
    run = json.loads((finished / "run.json").read_text(encoding="utf-8"))
    journal = JournalStorage(JournalFileBackend(str(finished / "study.journal")))
    study = optuna.load_study(study_name=run["study"], storage=journal)
    records = Records.load(finished / "frontier.json")
    measured = [record for record in records.plans if record.measured]
    assert len(study.trials) == len(measured) >= 4  # three uniform widths and the optimum
    for trial, record in zip(study.trials, measured, strict=True):
        assert trial.state == optuna.trial.TrialState.COMPLETE
        assert trial.user_attrs["name"] == record.name
        assert trial.values[1:] == [record.weight_bytes, record.latency_s]
        assert record.error == trial.values[0]
        formats = {
            u: records.formats[i] for u, i in zip(records.units, record.formats, strict=True)
        }
        assert trial.params == formats


def test_json_is_one_object_and_nothing_else(search: Callable[..., Any]) -> None:
    answer = search("--target-compression", "5", "--format", "json")
    assert answer.status == 0
    plan = answer.json
    files = plan.pop("files")
    assert plan.pop("audit") == json.loads(Path("run/audit.json").read_text(encoding="utf-8"))
    assert plan == json.loads(Path("run/plan.json").read_text(encoding="utf-8"))
    assert files[0] == "run/plan.json"
    assert all(Path(file).is_file() for file in files)


def test_results_on_stdout_progress_on_stderr(search: Callable[..., Any]) -> None:
    answer = search("--target-compression", "5", "--verbose")
    assert answer.status == 0
    assert "this plan" in answer.out
    assert "0.weight" in answer.out
    assert "Written to run: plan.json" in answer.out
    assert "measuring" not in answer.out
    stages = re.findall(r"^\[ *[\d.]+ s\] stage: (.+): (?:\d+) of (?:\d+) in", answer.err, re.M)
    assert stages[:5] == [
        "gathering input moments",  # what rounding learns from
        "gathering input moments",  # what it is judged by
        "checking rounding",
        "rounding weights",
        "sketching sensitivities",
    ]
    assert set(stages[5:]) <= {
        *("measuring sensitivities", "measuring plans", "measuring changes of the plan"),
        *("rounding weights", "rounding in sequence", "auditing errors that add"),
    }
    assert "measuring sensitivities" in stages


def test_the_model_may_name_its_evaluation(search: Callable[..., Any]) -> None:
    plan = search("--target-compression", "5", "--format", "json", model="judged").json
    assert plan["measured"]["original_metric"] == {"closeness": 0.0}
    assert -1 < plan["measured"]["metric"]["closeness"] < 0
    assert set(plan["uniform"]["4"]["metric"]) == {"closeness"}
    assert search("--target-compression", "5", "--format", "json").json["measured"]["metric"] == {}


def test_one_sample_is_enough_and_nothing_is_held_out(search: Callable[..., Any]) -> None:
    answer = search("--target-compression", "5", model="one_sample")
    assert answer.status == 0
    assert "note: one calibration sample cannot be split" in answer.err
    plan = Plan.load("run/plan.json")
    assert plan.measured.heldout_output_mse is None
    assert plan.measured.output_mse_se == 0


@pytest.mark.parametrize("target", [4, 6, 8])
def test_demo_keeps_its_promises(cli: Callable[..., Any], tmp_path: Path, target: int) -> None:
    """Smaller than demanded, exactly as large as predicted, and no uniform plan is better."""
    command = ["search", "--hardware", "intel_cpu", "--target-compression", target]
    answer = cli(*command, "--trials", 1, "--output", "run", "--format", "json")
    assert answer.status == 0
    plan = Plan.load("run/plan.json")
    assert plan.predicted.compression >= target
    assert len(check_plan(plan)) == 3
    heldout = plan.measured.heldout_output_mse
    assert heldout is not None
    for uniform in plan.uniform.values():
        if uniform.weight_bytes <= plan.predicted.weight_bytes:
            assert heldout <= (uniform.heldout_output_mse or 0)
    applied = cli("apply", "run/plan.json", "--output", "demo.safetensors", "--format", "json")
    assert applied.json["tensor_bytes"] == plan.predicted.weight_bytes
    assert tensor_bytes("demo.safetensors") == plan.predicted.weight_bytes
    evaluated = cli("evaluate", "demo.safetensors", "--format", "json").json
    # The packed model computes what was measured: the same dequantized numbers.
    assert math.isclose(evaluated["heldout_output_mse"]["error"], heldout, rel_tol=1e-3)
    assert evaluated["metric"]["accuracy"] == pytest.approx(plan.measured.metric["accuracy"])


@pytest.mark.parametrize(
    ("demand", "limit", "reached"),
    [
        ("--max-size-mb", 0.006, lambda plan: plan.predicted.weight_bytes / 1e6),
        ("--max-error", 0.01, lambda plan: plan.measured.output_mse),
        ("--max-metric-drop", 0.05, lambda plan: -plan.measured.metric["closeness"]),
        ("--max-latency-ms", 0.2, lambda plan: plan.predicted.latency_s * 1e3),
        ("--max-memory-mb", 60, lambda plan: plan.predicted.peak_memory_bytes / 1e6),
    ],
    ids=lambda value: value.strip("-") if isinstance(value, str) else "",
)
def test_every_demand_is_kept(
    search: Callable[..., Any], demand: str, limit: float, reached: Callable[[Plan], float]
) -> None:
    answer = search(demand, str(limit), "--target-compression", "1.5", model="judged")
    assert answer.status == 0, answer.err
    plan = Plan.load("run/plan.json")
    assert reached(plan) <= limit
    assert plan.predicted.compression >= 1.5
    check_plan(plan)


def test_a_second_budget_measures_no_unit_and_no_uniform_plan_again(
    search: Callable[..., Any], counter: Counter
) -> None:
    assert search("--target-compression", "4").status == 0
    first = list(counter.measured)
    assert len(first) > 9
    counter.measured.clear()
    assert search("--target-compression", "4").status == 0
    assert counter.measured == []
    # Changes around another plan are other measurements.
    assert search("--target-compression", "5", "--rounds", "0").status == 0
    # Plans for the new budget, on calibration and held-out data, and the audit of the one chosen.
    assert any(what.startswith("optimum") for what in counter.measured)
    new = r"optimum.*|w\d\S* everywhere|.* alone"
    assert all(re.fullmatch(new, what) for what in counter.measured)
    counter.measured.clear()
    assert search("--target-compression", "4", "--hardware", "arm_mobile").status == 1
    assert counter.measured == []


def test_the_same_again_gives_the_same_files(
    search: Callable[..., Any], contents: Callable[..., Any]
) -> None:
    assert search("--target-compression", "6").status == 0
    first = contents(Path("run"))
    assert search("--target-compression", "6").status == 0
    assert contents(Path("run")) == first


def test_a_resumed_run_gives_the_plan_of_a_fresh_one(search: Callable[..., Any]) -> None:
    assert search("--target-compression", "4").status == 0
    assert search("--target-compression", "6").status == 0
    assert search("--target-compression", "6", output="fresh").status == 0
    assert Path("run/plan.json").read_bytes() == Path("fresh/plan.json").read_bytes()


def test_the_same_seed_gives_the_same_plan_in_another_process(search: Callable[..., Any]) -> None:
    options = ["--target-compression", "6", "--trials", "4", "--seed", "7"]
    assert search(*options).status == 0
    start = [sys.executable, "-c", "from mixq.cli import main; main()", "search", *options]
    subprocess.run(
        [*start, "--model", "tiny.py:load", "--hardware", "intel_cpu", "--output", "other"],
        env={**os.environ, "PYTHONHASHSEED": "1234"},
        check=True,
        capture_output=True,
        timeout=120,
    )
    for name in ("plan.json", "plan.weights.safetensors"):
        assert Path("other", name).read_bytes() == Path("run", name).read_bytes()


def test_storage_in_a_database(search: Callable[..., Any], counter: Counter) -> None:
    url = "sqlite:///studies.db"
    assert search("--target-compression", "5", "--storage", url).status == 0
    assert not Path("run/study.journal").exists()
    journal = search("--target-compression", "5", output="journal")
    assert journal.status == 0
    assert Path("run/plan.json").read_bytes() == Path("journal/plan.json").read_bytes()
    counter.measured.clear()
    assert search("--target-compression", "5", "--storage", url).status == 0
    assert counter.measured == []
    name = json.loads(Path("run/run.json").read_text(encoding="utf-8"))["study"]
    study = optuna.load_study(study_name=name, storage=url)
    assert {trial.user_attrs["kind"] for trial in study.trials} >= {"uniform", "additive"}


def test_optunas_samplers_propose_on_request(search: Callable[..., Any]) -> None:
    answer = search("--target-compression", "5", "--sampler", "random", "--trials", "4")
    assert answer.status == 0
    assert "note: plans were proposed by Optuna's sampler random" in answer.err
    kinds = {record.kind for record in Records.load("run/frontier.json").plans if record.measured}
    assert kinds == {"uniform", "chosen", "trial"}
    help = search("--help", model="load").out
    assert "optuna-dashboard mixq-run/study.journal" in help


def test_pins_and_ties_hold_everywhere(search: Callable[..., Any]) -> None:
    answer = search(
        "--target-compression", "1.5", "--pin", "0.*=32", "--tie", "[24].weight", "--trials", "4"
    )
    assert answer.status == 0, answer.err
    records = Records.load("run/frontier.json")
    for record in records.plans:
        formats = dict(
            zip(records.units, (records.formats[i] for i in record.formats), strict=True)
        )
        assert formats["0.weight"] == "w32"
        assert formats["2.weight"] == formats["4.weight"]


@pytest.mark.parametrize("other", ["model", "hardware"])
def test_another_runs_folder_is_kept_unless_overwritten(
    search: Callable[..., Any], contents: Callable[..., Any], other: str
) -> None:
    assert search("--target-compression", "4").status == 0
    Path("run/notes.txt").write_text("mine", encoding="utf-8")
    before = contents(Path("run"))
    more = ("--hardware", "arm_mobile") if other == "hardware" else ()
    model = "load" if other == "hardware" else "other"
    refused = search("--target-compression", "4", *more, model=model)
    assert refused.status == 1
    assert "--overwrite" in refused.error
    assert f"another {other}" in refused.error
    assert contents(Path("run")) == before
    assert search("--target-compression", "4", "--overwrite", *more, model=model).status == 0
    after = contents(Path("run"))
    assert after["notes.txt"] == b"mine"
    assert after["plan.json"] != before["plan.json"]
    kept, started = (
        {name for name in names if name.startswith("measurements-")} for names in (before, after)
    )
    assert started
    assert started.isdisjoint(kept) == (other == "model")


def test_a_refused_request_leaves_a_finished_run_as_it_was(
    search: Callable[..., Any], contents: Callable[..., Any]
) -> None:
    assert search("--target-compression", "4").status == 0
    before = contents(Path("run"))
    assert search("--target-compression", "99").status == 3
    assert search("--target-compression", "4", "--max-error", "1e-9").status == 3
    assert {**contents(Path("run")), "study.journal": b""} == {**before, "study.journal": b""}


def test_a_folder_that_only_saw_a_refusal_is_free(search: Callable[..., Any]) -> None:
    assert search("--target-compression", "99").status == 3
    assert search("--target-compression", "4", "--hardware", "arm_mobile").status == 0


def test_someone_elses_plan_is_not_overwritten(search: Callable[..., Any]) -> None:
    Path("run").mkdir()
    Path("run/plan.json").write_text("my own", encoding="utf-8")
    answer = search("--target-compression", "4")
    assert answer.status == 1
    assert "plan.json, but no readable run.json" in answer.error
    assert Path("run/plan.json").read_text(encoding="utf-8") == "my own"


def test_markup_in_a_folders_name_is_printed_as_it_is(search: Callable[..., Any]) -> None:
    answer = search("--target-compression", "4", output="[/bold] [red]x")
    assert answer.status == 0
    assert "Written to [/bold] [red]x: plan.json" in answer.out


def test_uniform_is_named_when_it_does_it_already(search: Callable[..., Any]) -> None:
    # With one width there is nothing to mix.
    answer = search("--max-size-mb", "1", "--bits", "8")
    assert answer.status == 0
    assert "note: uniform 8 bit already meets the demands" in answer.err


def test_demo_is_the_default_model(finished: Path) -> None:
    model, _, _ = demo.load()
    plan = Plan.load(finished / "plan.json")
    assert plan.model.name == "demo"
    assert plan.model.parameters == sum(parameter.numel() for parameter in model.parameters())
