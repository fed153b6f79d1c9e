"""Run folders that no search made, so that a report can be of any size and hold any name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mixq.files import write_json_atomic
from mixq.formats import Format
from mixq.plan import Plan
from mixq.quantize.counting import count_weights
from mixq.report.points import PointKind
from mixq.report.prices import Price, Prices
from mixq.report.records import Record, Records
from mixq.search.audit import Audit, AuditedPlan, Interaction
from mixq.sensitivity.estimate import Estimate
from mixq.sensitivity.table import SensitivityTable

FORMATS = [Format.parse(name) for name in ("w32", "w8g64", "w4g64-affine-gptq", "w4g32", "w2g64")]
SHAPE = (64, 128)
EVIL = (
    "</script><script>window.hacked=1</script>",
    "<img src=http://example.invalid/x onerror=window.hacked=1>",
    "\u202egnp.exe\u2066",
    "{{ 7 * 7 }}${7*7}",
    "a'\"><b onmouseover=window.hacked=1>",
    "\u2028line\u2029\x00\x1b[31m",
    "</style><style>body{display:none}</style>",
    "<a href='http://example.invalid/'>link</a>",
)
"""Names that would do something if they were anything but text."""


def bits_of(unit: int, plan: int) -> int:
    """Position of a unit's format in a plan: narrower from plan to plan."""
    return min(len(FORMATS) - 1, (unit * 7 + plan * 3) % (plan + 2))


def write_run(folder: Path, units: list[str], *, plans: int = 6, what: str = "net") -> Path:
    """A finished run of linear layers, with everything that a report shows."""
    folder.mkdir(parents=True, exist_ok=True)
    write_analyzed(folder, units)
    chosen = [FORMATS[bits_of(u, 3)] for u in range(len(units))]
    rows, columns = SHAPE
    stored = sum(fmt.stored_bytes(rows, columns) for fmt in chosen)
    latency_s = 1e-5 * len(units)
    cost: dict[str, Any] = {
        "weight_bytes": stored,
        "compression": 6.04,
        "latency_s": latency_s / 1.9,
    }
    plan = {
        "schema_version": 1, "mixq_version": "1", "seed": 7, "budget": {"compression": 6.0},
        "model": {"name": what, "fingerprint": "sha256:m", "parameters": 10,
                  "original_bytes": 10**7},
        "hardware": {"name": "intel_cpu", "fingerprint": "sha256:h", "runtime": "ort",
                     "threads": 2},
        "workload": {"batch_size": 1, "shapes": {what: [1, 128]}},
        "layers": {
            unit: {
                "bits": fmt.bits, "group_size": fmt.group_size, "grid": fmt.grid,
                "method": fmt.method, "kernel": what, "weight_bytes": 1000 + 10 * i,
                "latency_s": 1e-6 * (1 + i % 9), "error": 1e-6, "error_se": 1e-7,
                "shape": list(SHAPE), "matrix": list(SHAPE),
            }
            for i, (unit, fmt) in enumerate(zip(units, chosen, strict=True))
        },
        "predicted": {**cost, "baseline_latency_s": latency_s, "peak_memory_bytes": 10**6,
                      "error": 0.02, "file_bytes": stored + 100},
        "measured": {"error": 0.021, "error_se": 1e-3, "heldout_error": 0.022, "output_mse": 0.021,
                     "relative_output_mse": 0.01, "metric": {what: 0.968},
                     "original_metric": {what: 0.971}},
        "certificate": {"objective": 1.0, "lower_bound": 1.0, "gap": 0.0, "solver": "core"},
        "uniform": {"8": {**cost, "error": 0.01, "output_mse": 0.01, "metric": {what: 0.97}}},
        "notes": [f"note of {what}"],
    }  # fmt: skip
    write_json_atomic(folder / "plan.json", plan)
    Plan.load(folder / "plan.json")  # a plan that is none would fail elsewhere
    kinds: tuple[PointKind, ...] = ("frontier", "trial", "uniform", "chosen")
    Records(
        exact=True, frontier_points=plans, units=units, formats=[fmt.name for fmt in FORMATS],
        plans=[
            Record(
                name=f"{kind} {i} {what}", kind=kind, weight_bytes=10**6 + 10**5 * (i + 40 * k),
                compression=9.0, error=0.1 / (1 + i + k), latency_s=1e-3 * (1 + i),
                measured=kind != "frontier", formats=[bits_of(u, i) for u in range(len(units))],
            )
            for k, kind in enumerate(kinds)
            for i in range(1 if kind == "chosen" else plans if kind == "frontier" else 3)
        ],
    ).save(folder / "frontier.json")  # fmt: skip
    Prices(
        hardware="intel_cpu", runtime="ort", threads=2, other_latency_s=2e-6, other_bytes=10,
        kernels=[what, "dequantize"], reasons=["compute-bound", what],
        units={
            unit: {
                fmt.name: Price(
                    latency_s=1e-6 * (5 if fmt.bits == 32 else 1 + i % 9), weight_bytes=1000,
                    kernel=int(fmt.bits < 8), reason=int(fmt.bits < 8),
                )
                for fmt in FORMATS
            }
            for i, unit in enumerate(units)
        },
    ).save(folder / "costs.json")  # fmt: skip
    first, second = units[:2]
    Audit(
        "mse", f"chosen 0 {what}",
        tuple(
            AuditedPlan(f"{kind} 0 {what}", kind, 10**6, 0.02 * i, 0.021 * i, 0.001)
            for i, kind in enumerate(("uniform", "additive", "chosen"), 1)
        ),
        8, (first, second), (Interaction(first, second, 0.01, 0.02, 0.01, 0.001),),
    ).save(folder / "audit.json")  # fmt: skip
    return folder


def write_analyzed(folder: Path, units: list[str]) -> None:
    """What an analysis leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    SensitivityTable(
        {
            unit: {
                fmt: Estimate(0.0 if fmt.bits == 32 else 1e-2 * (1 + i % 50) / 4**fmt.bits**0.5,
                              0.0 if fmt.bits == 32 else 1e-5, 8)
                for fmt in FORMATS
            }
            for i, unit in enumerate(units)
        },
        1.0, "", 8, "sha256:m", "sha256:c",
    ).save(folder / "sensitivity.json")  # fmt: skip
    weight = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    picture = count_weights(weight, *SHAPE, unit=units[0], error=0.1, error_format="w2g64")
    assert picture is not None
    picture.save(folder / "histogram.json")
    write_json_atomic(
        folder / "run.json",
        {"state": "done", "request": {"model": units[0], "target_compression": 6.0},
         "machine": {"processor": units[0]}},
    )  # fmt: skip


def names(count: int) -> list[str]:
    """Names of so many units, as transformers have them."""
    return [f"encoder.layer.{i // 6}.part{i % 6}.dense.weight" for i in range(count)]
