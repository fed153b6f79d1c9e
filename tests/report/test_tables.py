"""Tables for the terminal: every number is there, and nothing from outside is obeyed."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import networkx as nx
import pytest
from rich.console import Console, RenderableType

from mixq.errors import PlanError, ProfileError
from mixq.formats import Format
from mixq.graph.model_graph import ModelGraph
from mixq.graph.units import WeightUnit
from mixq.graph.work import Work
from mixq.plan import Plan
from mixq.profiles import load
from mixq.report.hardware import kernels_tables, profile_facts, profile_json, profiles_table
from mixq.report.plan_diff import PlanDiff, diff_table
from mixq.report.tables import evaluation_table, plan_table, sensitivity_table, summary
from mixq.sensitivity.compare import Comparison
from mixq.sensitivity.estimate import Estimate
from mixq.sensitivity.table import SensitivityTable

HOSTILE = "[/red]\x1b[31m[bold]x"
SHOWN = "[/red]\\x1b[31m[bold]x"


def printed(*tables: RenderableType) -> str:
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(*tables)
    return capture.get()


def cells(text: str, name: str) -> list[str]:
    """The cells of the row that starts with a name."""
    (row,) = (line for line in text.splitlines() if re.match(rf"[│┃] *{re.escape(name)} ", line))
    return [cell.strip() for cell in re.split("[│┃]", row)[1:-1]]


def layer(bits: int, **more: Any) -> dict[str, Any]:
    return {
        "bits": bits, "weight_bytes": 12345, "latency_s": 2.5e-6, "error": 1.5e-3,
        "error_se": 2e-4, "shape": [8, 64], "matrix": [8, 64], "kernel": "fast one", **more,
    }  # fmt: skip


def plan(name: str = "net", **more: Any) -> Plan:
    document: dict[str, Any] = {
        "schema_version": 1,
        "mixq_version": "0",
        "seed": 0,
        "model": {
            "name": name, "fingerprint": "sha256:0", "parameters": 1, "original_bytes": 400000
        },
        "hardware": {"name": name, "fingerprint": "sha256:1", "runtime": name, "threads": 3},
        "workload": {"batch_size": 7},
        "budget": {},
        "layers": {name: layer(4, group_size=64), "exact": layer(32, error=0.0, error_se=0.0)},
        "predicted": {
            "compression": 4.25, "weight_bytes": 98765, "latency_s": 1.5e-3,
            "baseline_latency_s": 3e-3, "peak_memory_bytes": 1, "output_mse": 0.0,
        },
        "measured": {
            "output_mse": 0.0123, "relative_output_mse": 0.0, "heldout_output_mse": 0.0456,
            "metric": {"accuracy": 0.875}, "original_metric": {"accuracy": 0.9375},
        },
        "certificate": {"objective": 1.0, "lower_bound": 0.99, "gap": 0.0101, "solver": "s"},
        "uniform": {
            "8": {
                "weight_bytes": 111222, "compression": 3.5, "latency_s": 1e-3, "output_mse": 0.1,
                "metric": {"accuracy": 0.75},
            }
        },
        **more,
    }  # fmt: skip
    return Plan.model_validate(document)


def test_plan_table() -> None:
    text = printed(plan_table(plan()))
    assert "net on net" in text
    assert cells(text, "net") == ["net", "w4g64", "12,345", "1.50e-03 ± 2e-04", "2.5", "fast one"]
    assert cells(text, "exact")[1:4] == ["w32", "12,345", "0"]


def test_plan_table_says_how_stable_widths_are() -> None:
    layers = {
        "a": layer(4, group_size=64, stability=0.996, format_stability=0.5),
        "b": layer(4, group_size=64, stability=0.29, format_stability=0.2),
        "c": layer(8),
    }
    info = {"samples": 12, "resamplings": 40, "kept": 0.9, "regret": 0.01}
    text = printed(plan_table(plan(layers=layers, stability=info)))
    assert [cells(text, name)[2] for name in "abc"] == ["99%", "29%", "-"]
    caption = " ".join(text.split())
    assert "stable: share of 40 resamplings of 12 calibration samples" in caption
    assert "1.0% more error" in caption


@pytest.mark.parametrize(
    ("samples", "resamplings", "said"),
    [
        (1, 0, None),
        (3, 0, None),
        (1, 40, "40 resamplings of 1 calibration sample in"),  # of earlier versions
        (4, 40, "40 resamplings of 4 calibration samples in"),
    ],
)
def test_plan_table_says_nothing_of_few_samples(
    samples: int, resamplings: int, said: str | None
) -> None:
    share = 0.5 if resamplings else None
    info = {"samples": samples, "resamplings": resamplings, "kept": 0.0, "regret": 0.0}
    layers = {"a": layer(4, group_size=64, stability=share)}
    text = printed(plan_table(plan(layers=layers, stability=info)))
    assert "stable" in text
    assert cells(text, "a")[2] == ("50%" if resamplings else "-")
    caption = " ".join(text.split())
    assert ("resamplings of" in caption) == (said is not None)
    assert said is None or said in caption


def test_summary() -> None:
    """Held-out errors stand first."""
    single = {"w4g64": {**plan().uniform["8"].model_dump(), "heldout_error": 0.0625}}
    text = printed(summary(plan(single=single)))
    assert re.search("held-out output error *[│┃] *on calibration", text)
    assert cells(text, "original") == [
        "original", "1.00", "400,000", "0", "0", "3.000", "0.9375"
    ]  # fmt: skip
    assert cells(text, "uniform 8 bit") == [
        "uniform 8 bit", "3.50", "111,222", "-", "0.1", "1.000", "0.75"
    ]  # fmt: skip
    assert cells(text, "w4g64 everywhere") == [
        "w4g64 everywhere", "3.50", "111,222", "0.0625", "0.1", "1.000", "0.75"
    ]  # fmt: skip
    assert cells(text, "this plan (1 at 32, 1 at 4)") == [
        "this plan (1 at 32, 1 at 4)", "4.25", "98,765", "0.0456", "0.0123", "1.500", "0.875"
    ]  # fmt: skip
    assert "within 1.01% of the best possible (s)" in text
    assert "3 threads, batch 7" in text


@pytest.mark.parametrize(
    ("certificate", "solve_s", "shown"),
    [
        ({"solver": "core", "states": 12_345}, 0.0214, "(core, 12,345 sums, 0.021 s)"),
        ({"solver": "highs", "states": 3}, None, "(highs, 3 nodes)"),
        ({"solver": "core", "states": 0}, 0.5, "(core, 0.500 s)"),
    ],
    ids=["sums", "nodes", "no-states"],
)
def test_summary_of_a_proof(
    certificate: dict[str, object], solve_s: float | None, shown: str
) -> None:
    known = {"objective": 1.0, "lower_bound": 1.0, "gap": 0.0, **certificate}
    text = printed(summary(plan(certificate=known), solve_s))
    assert f"of the best possible {shown}" in " ".join(text.split())


def test_summary_of_a_plan_without_metrics_or_heldout_data() -> None:
    bare = {"output_mse": 0.0, "relative_output_mse": 0.0}
    text = printed(summary(plan(measured=bare, uniform={})))
    assert "held-out" not in text
    assert cells(text, "this plan (1 at 32, 1 at 4)")[3:] == ["0", "1.500"]


def test_summary_of_a_metric_that_the_original_lacks() -> None:
    half = {"output_mse": 0.0, "relative_output_mse": 0.0, "metric": {"f1": 0.5}}
    assert cells(printed(summary(plan(measured=half))), "original")[-1] == "-"


@pytest.mark.parametrize("make", [plan_table, summary], ids=["plan", "summary"])
def test_what_comes_from_outside_is_shown_as_it_is(make: Any) -> None:
    hostile = plan(
        HOSTILE,
        measured={
            "output_mse": 0.0, "relative_output_mse": 0.0,
            "metric": {HOSTILE: 1.0}, "original_metric": {HOSTILE: 1.0},
        },
        uniform={HOSTILE: plan().uniform["8"].model_dump()},
    )  # fmt: skip
    text = printed(make(hostile))
    assert "\x1b" not in text
    assert SHOWN in text


def test_hostile_names_in_the_other_tables() -> None:
    comparison = Comparison(Estimate(1.0, 0.1, 4), None, {HOSTILE: 1.0}, {})
    other = plan("other")
    for text in (
        printed(evaluation_table(comparison)),
        printed(diff_table(plan(HOSTILE), other)),
    ):
        assert "\x1b" not in text
        assert SHOWN in text


def test_diff_table() -> None:
    first = plan()
    second = plan(
        layers={"net": layer(8, weight_bytes=12445), "new": layer(2, group_size=16)},
        predicted={**plan().predicted.model_dump(), "weight_bytes": 197530, "latency_s": 3e-3},
        measured={
            "output_mse": 0.0246, "relative_output_mse": 0.0, "heldout_output_mse": 0.0342,
            "metric": {"accuracy": 0.5},
        },
    )  # fmt: skip
    text = printed(diff_table(first, second))
    assert cells(text, "net") == ["net", "w4g64", "w8", "+100 bytes"]
    assert cells(text, "exact") == ["exact", "w32", "-", "-"]
    assert cells(text, "new") == ["new", "-", "w2g16", "-"]
    assert cells(text, "bytes") == ["bytes", "98,765", "197,530", "+100.0%"]
    assert cells(text, "latency ms")[1:] == ["1.500", "3.000", "+100.0%"]
    assert cells(text, "held-out output error")[1:] == ["0.0456", "0.0342", "-25.0%"]
    assert cells(text, "output error on calibration")[1:] == ["0.0123", "0.0246", "+100.0%"]
    assert cells(text, "output error added up")[1:] == ["0", "0", "-"]
    assert cells(text, "accuracy")[1:] == ["0.875", "0.5", "-0.375"]
    assert "no layer differs" in printed(diff_table(first, first))


def test_plan_diff_json() -> None:
    first, second = plan(), plan(layers={"net": layer(8), "new": layer(2, group_size=16)})
    assert PlanDiff.of(first, second).to_json() == {
        "layers": {"net": ["w4g64", "w8"], "exact": ["w32", None], "new": [None, "w2g16"]},
        "weight_bytes": [98765, 98765],
        "compression": [4.25, 4.25],
        "latency_s": [1.5e-3, 1.5e-3],
        "peak_memory_bytes": [1, 1],
        "heldout_error": [0.0456, 0.0456],
        "measured_error": [0.0123, 0.0123],
        "predicted_error": [0.0, 0.0],
        "metric": "mse",
        "metrics": {"accuracy": [0.875, 0.875]},
    }


def test_plans_of_different_models_are_not_compared() -> None:
    model = {**plan().model.model_dump(), "fingerprint": "sha256:other", "name": HOSTILE}
    with pytest.raises(PlanError, match=r"different weights \(net and .*take two plans of one"):
        PlanDiff.of(plan(), plan(model=model))


METRICS: dict[str, tuple[str, str]] = {
    "kl": ("kl", "0.01"),
    "relative": ("relative", "0.01 (20.0 dB)"),
    "loss": ("my.code:loss", "0.01"),
}


@pytest.mark.parametrize(("metric", "shown"), METRICS.values(), ids=METRICS)
def test_tables_name_the_metric(metric: str, shown: str) -> None:
    made = plan(error_metric={"name": metric})
    data = made.to_json()
    data["measured"] = {"error": 0.01, "output_mse": 7.0, "relative_output_mse": 7.0}
    costs = {"weight_bytes": 1, "compression": 1.0, "latency_s": 1.0}
    data["uniform"] = {"8": {"error": 0.0, "output_mse": 7.0, **costs}}
    other = Plan.from_json(json.dumps(data))
    text = printed(summary(other))
    assert metric in text
    assert "output error" not in text
    assert cells(text, "this plan (1 at 32, 1 at 4)")[3] == shown
    assert cells(text, "uniform 8 bit")[3] == "0"
    calibrated = f"{metric} on calibration"
    assert cells(printed(diff_table(other, other)), calibrated)[1:3] == [shown, shown]
    squares = cells(printed(diff_table(other, plan())), "output error on calibration")
    assert squares[1:3] == ["7", "0.0123"]
    found = Comparison(
        Estimate(7.0, 0.1, 4), Estimate(8.0, 0.1, 2), error_metric=metric,
        error=Estimate(0.01, 0.0, 4), heldout_error=Estimate(0.02, 0.0, 2),
    )  # fmt: skip
    text = printed(evaluation_table(found))
    assert cells(text, metric) == [metric, "0", "0.01"]
    assert cells(text, f"held-out {metric}") == [f"held-out {metric}", "0", "0.02"]


def test_evaluation_table() -> None:
    text = printed(
        evaluation_table(
            Comparison(Estimate(0.25, 0.1, 4), Estimate(0.5, 0.1, 2), {"acc": 0.5}, {"acc": 0.75})
        )
    )
    assert cells(text, "output error") == ["output error", "0", "0.25"]
    assert cells(text, "held-out output error") == ["held-out output error", "0", "0.5"]
    assert cells(text, "acc") == ["acc", "0.75", "0.5"]


def test_sensitivity_table() -> None:
    unit = WeightUnit("a", (8, 64), 8, 64, 4, "Linear", work=(Work("gemm", m=2, n=8, k=64),))
    digraph: nx.DiGraph[str] = nx.DiGraph()
    digraph.add_node("linear", work=unit.work[0])
    graph = ModelGraph(
        digraph=digraph,
        units={"a": unit, "b": unit, "c": unit},
        parameters=512,
        original_bytes=2048,
        other_bytes=0,
        peak_activation_bytes=640,
        batch_size=2,
        source="dispatch",
    )
    table = SensitivityTable(
        entries={
            "a": {Format(8, 64): Estimate(0.5, 0.1, 4), Format(4, 64): Estimate(1.0, 0.2, 4)},
            "b": {Format(8, 64): Estimate(0.0, 0.0, 4)},
            "c": {Format(8, 64, "affine"): Estimate(0.5, 0.0, 1)},
        },
        output_power=2.0,
        output="",
        samples=4,
        model_fingerprint="",
        calibration_fingerprint="",
    )
    text = printed(sensitivity_table(table, graph))
    assert cells(text, "a") == ["a", "8 x 64", "1,024", "2.5e-01 ±20%", "5.0e-01 ±20%"]
    assert cells(text, "b")[-2:] == ["0", "-"]
    assert cells(text, "c")[-2:] == ["2.5e-01", "-"]  # one sample; another grid, the same column
    assert "output error / mean square of the output" in text
    kl = printed(sensitivity_table(replace(table, metric="kl"), graph))
    assert "output error (kl)" in kl
    assert cells(kl, "a")[3:] == ["5.0e-01 ±20%", "1.0e+00 ±20%"]
    relative = printed(sensitivity_table(replace(table, metric="relative"), graph))
    assert cells(relative, "a")[3] == "5.0e-01 ±20% (3.0 dB)"
    assert cells(relative, "b")[3] == "0"
    caption = (
        "± is one standard error; 4 samples, 512 parameters, 1,024 MACs, 640 bytes of live "
        "activations"
    )
    assert caption in " ".join(text.split())


@pytest.mark.parametrize("name", ["intel_cpu", "arm_mobile", "nvidia_a100"])
def test_hardware_tables(name: str) -> None:
    profile = load(name)
    text = "".join(map(printed, (profile_facts(profile), *kernels_tables(profile))))
    assert profile.fingerprint in text
    for runtime in profile.runtimes.values():
        for kernel in runtime.kernels:
            assert kernel.name in text
    assert name in printed(profiles_table([profile]))
    facts = profile_json(profile)
    assert facts["runtimes"][profile.default_runtime]["kernels"]
    assert facts["dram_bytes_per_s"] == profile.dram_bytes_per_s


def test_kernels_of_one_runtime_and_where_its_numbers_are_from() -> None:
    profile = load("nvidia_h100")
    (table,) = kernels_tables(profile, "onnxruntime")
    text = printed(table)
    assert cells(text, "cuBLAS fp16")[-1] == "-"
    assert cells(text, "Gather fp16")[-1] == "nvidia_a100"
    assert "1-5" in text
    assert "17+" in text
    assert set(profile_json(profile, "onnxruntime")["runtimes"]) == {"onnxruntime"}
    for listed in (kernels_tables, profile_json):
        with pytest.raises(ProfileError, match=r"choose one of .*onnxruntime"):
            listed(profile, "tensorrt")
