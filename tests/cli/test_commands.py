"""analyze, apply, evaluate, report, plan and hardware on the demo: what they answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from mixq import demo
from mixq.artifact import load
from mixq.calibration import Calibration
from mixq.plan import Plan
from mixq.sensitivity.table import SensitivityTable


def test_analyze(search: Callable[..., Any], cli: Callable[..., Any]) -> None:
    arguments = ("analyze", "--model", "tiny.py:load", "--output", "run")
    answer = cli(*arguments)
    assert answer.status == 0
    assert "4.weight" in answer.out
    assert "Written to run: sensitivity.json, sensitivity.csv" in answer.out
    table = SensitivityTable.load("run/sensitivity.json")
    assert cli(*arguments, "--format", "json").json == {
        **table.to_json(),
        "files": [f"run/sensitivity.{kind}" for kind in ("json", "csv", "html", "png")],
    }
    assert json.loads(Path("run/run.json").read_text(encoding="utf-8"))["state"] == "analyzed"


def test_an_analysis_may_equalize_first(cli: Callable[..., Any]) -> None:
    options = ("--bits", "8,4", "--method", "rtn", "--samples", "16")
    for name in ("none", "fold"):
        assert cli("analyze", *options, "--equalize", name, "--output", name).status == 0
    plain, folded = (
        SensitivityTable.load(f"{name}/sensitivity.json").entries for name in ("none", "fold")
    )
    # The demo's stem has a batch norm, and rounds to other numbers once that is part of it.
    assert plain["stem.weight"] != folded["stem.weight"]
    for fmt, entry in plain["wide.weight"].items():
        assert entry.error == pytest.approx(folded["wide.weight"][fmt].error, rel=1e-3)


PLOTS = ("pareto", "sensitivity", "audit")


@pytest.mark.parametrize("chip", ["intel_cpu", "arm_mobile"])
def test_a_search_for_any_chip_goes_on_from_an_analysis(
    search: Callable[..., Any], cli: Callable[..., Any], chip: str
) -> None:
    whole = ("--sensitivity", "measured")
    assert cli("analyze", "--model", "tiny.py:load", "--output", "run", *whole).status == 0
    (store,) = Path("run").glob("measurements-*.jsonl")
    before = store.read_bytes()
    assert search("--target-compression", "5", "--hardware", chip, *whole).status == 0
    assert store.read_bytes() == before
    plan = Plan.load("run/plan.json")
    # An analysis of the same model afterwards leaves the search finished.
    assert cli("analyze", "--model", "tiny.py:load", "--output", "run").status == 0
    run = json.loads(Path("run/run.json").read_text(encoding="utf-8"))
    assert run["state"] == "done"
    assert run["identity"]["hardware"] == plan.hardware.fingerprint


def test_apply(cli: Callable[..., Any], demo_run: Path) -> None:
    answer = cli("apply", demo_run / "plan.json")
    assert answer.status == 0
    plan = Plan.load(demo_run / "plan.json")
    assert f"{plan.predicted.weight_bytes:,} bytes of tensors, as the plan predicted" in answer.out
    model, _, _ = demo.load()
    assert load("model.mixq.safetensors", model) is not None
    answer = cli("apply", demo_run / "plan.json", "--output", "b.safetensors", "--format", "json")
    assert answer.json == {
        "file": "b.safetensors",
        "tensor_bytes": plan.predicted.weight_bytes,
        "predicted_bytes": plan.predicted.weight_bytes,
    }
    assert Path("b.safetensors").read_bytes() == Path("model.mixq.safetensors").read_bytes()


def test_evaluate_gives_the_measured_numbers(cli: Callable[..., Any], demo_run: Path) -> None:
    plan = Plan.load(demo_run / "plan.json")
    answer = cli("evaluate", demo_run / "plan.json", "--format", "json").json
    measured = plan.measured
    # Of all calibration data; the plan's is of the quarter that rounding was measured on.
    original, calibration, _ = demo.load()
    tuning, _ = Calibration.of(calibration).split()
    quantized = plan.apply(original)
    with torch.no_grad():
        errors = [
            (quantized(batch) - original(batch)).square().mean(1)
            for batch in cast("tuple[Tensor, ...]", tuning.batches)
        ]
    error = float(torch.cat(errors).mean())
    assert answer["output_mse"]["error"] == pytest.approx(error, rel=1e-3)
    assert answer["output_mse"]["error"] == pytest.approx(measured.output_mse, rel=0.2)
    assert answer["heldout_output_mse"]["error"] == pytest.approx(
        measured.heldout_output_mse, rel=1e-3
    )
    assert answer["metric"] == pytest.approx(measured.metric, rel=1e-3)
    assert answer["original_metric"] == pytest.approx(measured.original_metric)
    table = cli("evaluate", demo_run / "plan.json")
    assert table.status == 0
    assert "held-out output error" in table.out
    assert "accuracy" in table.out


def test_evaluate_in_another_metric(cli: Callable[..., Any], demo_run: Path) -> None:
    plain = cli("evaluate", demo_run / "plan.json", "--format", "json").json
    assert (plain["error_metric"], plain["error"]) == ("mse", None)
    answer = cli("evaluate", demo_run / "plan.json", "--metric", "kl", "--format", "json").json
    assert answer["output_mse"] == plain["output_mse"]
    assert answer["error_metric"] == "kl"
    assert 0 < answer["heldout_error"]["error"] < answer["heldout_output_mse"]["error"]
    assert "held-out kl" in cli("evaluate", demo_run / "plan.json", "--metric", "kl").out
    lost = cli("evaluate", demo_run / "plan.json", "--metric", "hinge")
    assert lost.status == 2
    assert "--metric is 'hinge'" in lost.error


def test_evaluate_in_the_plans_own_metric(
    cli: Callable[..., Any], search: Callable[..., Any]
) -> None:
    assert search("--target-compression", "5", "--metric", "cosine").status == 0
    plan = Plan.load("run/plan.json")
    data = ("--model", "tiny.py:load", "--format", "json")
    answer = cli("evaluate", "run/plan.json", *data).json
    assert answer["error_metric"] == "cosine"
    assert answer["heldout_error"]["error"] == pytest.approx(plan.measured.heldout_error, rel=1e-3)
    assert answer["heldout_output_mse"]["error"] == pytest.approx(
        plan.measured.heldout_output_mse, rel=1e-3
    )


def test_a_loss_is_run_by_those_who_name_it_alone(
    cli: Callable[..., Any], search: Callable[..., Any]
) -> None:
    """A plan from elsewhere names a function; running it unasked would be running its code."""
    loss = "tiny.py:loss"
    found = search("--target-compression", "5", "--metric", loss, "--format", "json")
    assert found.status == 0
    assert found.json["error_metric"] == {"name": loss, "outputs": {"output": 1.0}}
    model = ("--model", "tiny.py:load", "--format", "json")
    answer = cli("evaluate", "run/plan.json", *model)
    assert answer.json["error"] is None
    assert f"the plan's errors are in {loss}; --metric {loss} shows them" in answer.err
    named = cli("evaluate", "run/plan.json", *model, "--metric", loss)
    assert named.json["error_metric"] == loss
    assert named.err == ""
    assert cli("report", "run").status == 0
    assert loss in cli("plan", "show", "run/plan.json").out


def test_analyze_in_another_metric(cli: Callable[..., Any]) -> None:
    arguments = ("analyze", "--model", "tiny.py:load", "--samples", "2", "--bits", "8", "--output")
    answer = cli(*arguments, "a", "--metric", "relative", "--outputs", "output=2")
    assert answer.status == 0
    assert "output error (relative)" in answer.out
    assert " dB)" in answer.out
    found = cli(*arguments, "a", "--metric", "tiny.py:loss", "--format", "json").json
    assert found["metric"] == "tiny.py:loss"


def test_report_draws_the_same_plots_again(cli: Callable[..., Any], demo_run: Path) -> None:
    names = [f"{what}.{kind}" for what in PLOTS for kind in ("html", "png")]
    before = {name: (demo_run / name).read_bytes() for name in names}
    for name in before:
        (demo_run / name).unlink()
    answer = cli("report", demo_run)
    assert answer.status == 0
    assert "this plan" in answer.out
    assert "audit: errors add up within" in answer.out
    assert {name: (demo_run / name).read_bytes() for name in before} == before
    plan = cli("report", demo_run, "--format", "json").json
    assert [Path(file).name for file in plan.pop("files")] == ["report.html", *names]
    assert plan.pop("audit") == json.loads((demo_run / "audit.json").read_text(encoding="utf-8"))
    assert plan == Plan.load(demo_run / "plan.json").to_json()
    (demo_run / "audit.json").unlink()  # as runs of earlier versions have none
    old = cli("report", demo_run)
    assert old.status == 0
    assert "audit" not in old.out


def test_plan_show(cli: Callable[..., Any], demo_run: Path) -> None:
    plan = Plan.load(demo_run / "plan.json")
    answer = cli("plan", "show", demo_run / "plan.json")
    assert answer.status == 0
    assert all(name in answer.out for name in plan.layers)
    assert f"{plan.predicted.weight_bytes:,}" in answer.out
    assert cli("plan", "show", demo_run / "plan.json", "--format", "json").json == plan.to_json()


def test_plan_check(cli: Callable[..., Any], demo_run: Path) -> None:
    answer = cli("plan", "check", demo_run / "plan.json", "--model", "demo")
    assert answer.status == 0
    assert answer.out.splitlines()[-1] == "holds: the model's weights are the plan's"
    held = cli("plan", "check", demo_run / "plan.json", "--format", "json").json
    assert len(held["holds"]) == 3
    assert "compression 6 demanded" in held["holds"][-1]


def test_plan_diff(cli: Callable[..., Any], demo_run: Path) -> None:
    plan = Plan.load(demo_run / "plan.json")
    layers = {
        **plan.layers,
        "position": plan.layers["position"].model_copy(update={"bits": 2, "group_size": 16}),
    }
    plan.model_copy(update={"layers": layers}).save("other.json")
    answer = cli("plan", "diff", demo_run / "plan.json", "other.json", "--format", "json")
    names = [held["position"].format.name for held in (plan.layers, layers)]
    assert names[1].startswith("w2g16")
    assert answer.json["layers"] == {"position": names}
    assert answer.json["heldout_error"] == [plan.measured.heldout_error] * 2
    assert set(answer.json["metrics"]) == set(plan.measured.metric)
    table = cli("plan", "diff", demo_run / "plan.json", "other.json")
    assert "position" in table.out
    assert "wide.weight" not in table.out
    same = cli("plan", "diff", "other.json", "other.json", "--format", "json")
    assert same.json["layers"] == {}
    model = plan.model.model_copy(update={"fingerprint": "sha256:0"})
    plan.model_copy(update={"model": model}).save("stranger.json")
    refused = cli("plan", "diff", "other.json", "stranger.json")
    assert refused.status == 1
    assert "different weights" in refused.error


def test_hardware(cli: Callable[..., Any]) -> None:
    listed = cli("hardware", "list", "--format", "json").json["profiles"]
    assert {profile["name"] for profile in listed} >= {"intel_cpu", "arm_mobile", "nvidia_a100"}
    for profile in listed:
        shown = cli("hardware", "show", profile["name"], "--format", "json").json
        assert shown["name"] == profile["name"]
        assert shown["dram_bytes_per_s"] > 1e9
        assert cli("hardware", "show", profile["name"]).status == 0
    table = cli("hardware", "list")
    assert all(profile["name"] in table.out for profile in listed)


def test_version(cli: Callable[..., Any]) -> None:
    from mixq import __version__

    answer = cli("--version")
    assert (answer.status, answer.out) == (0, f"mixq {__version__}\n")


def test_a_folder_with_a_plan_is_told_its_file(cli: Callable[..., Any], demo_run: Path) -> None:
    answer = cli("plan", "show", demo_run)
    assert answer.status == 1
    assert f"{demo_run} is a folder; pass {demo_run / 'plan.json'}" in answer.error


@pytest.mark.parametrize(
    "arguments",
    [("apply",), ("bench",), ("evaluate",), ("export", "--runtime", "onnxruntime")],
    ids=lambda arguments: arguments[0],
)
def test_a_forgotten_model_is_named(
    cli: Callable[..., Any], search: Callable[..., Any], arguments: tuple[str, ...]
) -> None:
    assert search("--target-compression", "4").status == 0
    answer = cli(arguments[0], "run/plan.json", *arguments[1:])
    assert answer.status == 1
    assert (
        "the plan is for 'tiny.py:load', but without --model the demo is used; "
        "add --model tiny.py:load"
    ) in answer.error
