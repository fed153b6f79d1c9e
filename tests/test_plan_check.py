"""check_plan: what adds up holds, and every single thing that does not is named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixq.errors import PlanError
from mixq.formats import Format
from mixq.plan import Plan
from mixq.plan_check import check_plan

MATRIX = (8, 64)
OTHER_BYTES = 100


def layer(fmt: Format) -> dict[str, Any]:
    return {
        "bits": fmt.bits,
        "group_size": fmt.group_size,
        "grid": fmt.grid,
        "weight_bytes": fmt.stored_bytes(*MATRIX),
        "latency_s": 1e-6,
        "error": 0.0,
        "error_se": 0.0,
        "shape": [8, 64],
        "matrix": list(MATRIX),
    }


def document(formats: Mapping[str, Format], budget: Mapping[str, float]) -> dict[str, Any]:
    layers = {name: layer(fmt) for name, fmt in formats.items()}
    size = OTHER_BYTES + sum(entry["weight_bytes"] for entry in layers.values())
    original = OTHER_BYTES + 2048 * len(layers)
    return {
        "schema_version": 1,
        "mixq_version": "0",
        "seed": 0,
        "model": {
            "name": "m", "fingerprint": "sha256:0", "parameters": 1, "original_bytes": original
        },
        "hardware": {"name": "h", "fingerprint": "sha256:1", "runtime": "r", "threads": 1},
        "workload": {"batch_size": 1},
        "budget": dict(budget),
        "layers": layers,
        "predicted": {
            "compression": original / size,
            "weight_bytes": size,
            "latency_s": 2e-6,
            "baseline_latency_s": 4e-6,
            "peak_memory_bytes": size + 50,
            "output_mse": 0.0,
        },
        "measured": {"output_mse": 0.25, "relative_output_mse": 0.0},
        "certificate": {"objective": 0.0, "lower_bound": 0.0, "gap": 0.0, "solver": "s"},
    }  # fmt: skip


PLAIN = {"a": Format(8, 64), "b": Format(4, 64, "zero-point")}


def plan(formats: Mapping[str, Format] = PLAIN, budget: Mapping[str, float] | None = None) -> Plan:
    return Plan.model_validate(document(formats, budget or {}))


names = st.dictionaries(st.text(min_size=1, max_size=5), st.sampled_from(
    [Format(32), Format(16), Format(8), Format(4, 32), Format(2, 64, "zero-point")]
), min_size=1, max_size=5)  # fmt: skip


@settings(derandomize=True, deadline=None, max_examples=50)
@given(formats=names)
def test_a_plan_that_adds_up_holds(formats: dict[str, Format]) -> None:
    held = check_plan(plan(formats))
    assert len(held) == 2
    assert held[0].startswith(f"{len(formats)} layers")


SIZE = document(PLAIN, {})["predicted"]["weight_bytes"]


@pytest.mark.parametrize(
    ("name", "kept", "broken"),
    [
        ("compression", 4196 / SIZE, 4196 / SIZE + 1e-6),
        ("max_size_bytes", SIZE, SIZE - 1),
        ("max_latency_s", 2e-6, 1.9e-6),
        ("min_speedup", 2.0, 2.1),
        ("max_memory_bytes", SIZE + 50, SIZE + 49),
        ("max_error", 0.25, 0.24),
    ],
)
def test_demands(name: str, kept: float, broken: float) -> None:
    assert check_plan(plan(budget={name: kept}))[-1].startswith(f"{name} ")
    with pytest.raises(PlanError, match=f"demands {name} .*search again"):
        check_plan(plan(budget={name: broken}))


def test_demands_that_a_plan_cannot_show_are_passed_over() -> None:
    assert len(check_plan(plan(budget={"max_metric_drop": 0.0, "of_tomorrow": 3.0}))) == 2


def edited(change: Mapping[str, Any], *path: str) -> Plan:
    data = document(PLAIN, {})
    place = data
    for key in path:
        place = place[key]
    place.update(change)
    return Plan.model_validate(data)


@pytest.mark.parametrize(
    ("change", "path", "words"),
    [
        ({"matrix": [8, 63]}, ("layers", "a"), "8 x 63 matrix"),
        ({"shape": [512, 2]}, ("layers", "a"), "shape is"),
        ({"weight_bytes": 1}, ("layers", "a"), "says 1 bytes"),
        ({"bits": 4}, ("layers", "a"), "in w4g64"),
        ({"group_size": 32}, ("layers", "b"), "in w4g32-zp"),
        ({"weight_bytes": 600}, ("predicted",), "600 in all"),
        ({"compression": 3.0}, ("predicted",), "compression 3"),
        ({"original_bytes": 1}, ("model",), "its bytes give"),
        ({"weight_bytes": 0, "compression": 0.0}, ("predicted",), "0 in all"),
    ],
)
def test_what_does_not_add_up(change: dict[str, Any], path: tuple[str, ...], words: str) -> None:
    with pytest.raises(PlanError) as caught:
        check_plan(edited(change, *path))
    assert words in str(caught.value)
    assert "search again" in str(caught.value) or "its bytes give" in str(caught.value)


def test_no_latency_is_infinitely_fast() -> None:
    data = document(PLAIN, {"min_speedup": 1e9})
    data["predicted"]["latency_s"] = 0.0
    assert "inf reached" in check_plan(Plan.model_validate(data))[-1]
