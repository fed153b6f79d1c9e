"""Predicted against measured latency of ONNX Runtime on this machine, on models it never saw.

    mixq hardware calibrate
    OMP_NUM_THREADS=1 python benchmarks/cost_host.py [MODEL ...] [--calibrate] [--output FILE.csv]

Calibration times kernels by themselves; here whole models run: fp32, 8, 4 and 2 bits everywhere
and a mix, exported by mixq and timed in interleaved rounds at batch 1 and 16 (median CPU time of
one thread). *predicted* knows which kernels the exporter chose, as `mixq bench --hardware` does;
*by a search* is what prices say beforehand. `--calibrate` measures the machine first: another
hour is another machine.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixq.bench.exporting import export_all
from mixq.bench.predicting import predictions
from mixq.bench.timing import measure, warm
from mixq.bench.uniform import float_plan, uniform_plans
from mixq.bench.workload import workload
from mixq.calibrate.calibrate import calibrate
from mixq.export.registry import runtime as runtime_named
from mixq.formats import Format
from mixq.plan import Plan
from mixq.profiles import Profile, load
from mixq.sources import LoadedModel, load_model

MODELS = ("minilm", "efficientnet_lite0", "crepe_tiny")
FORMATS = {f"uniform {bits}": Format(bits, 64, "zero-point") for bits in (8, 4, 2)}
ROUNDS = {1: 15, 16: 7}
"""Rounds by batch size."""
NEAR = 0.30


def plans_of(loaded: LoadedModel) -> dict[str, Plan]:
    """Every width everywhere, and a mix of all of them in turn."""
    assert loaded.calibration is not None
    found = {"fp32": float_plan(loaded.model, loaded.name)}
    plans = uniform_plans(loaded.model, loaded.calibration, list(FORMATS.values()))
    found |= {name: plans[fmt] for name, fmt in FORMATS.items()}
    kinds = list(found.values())
    layers = {
        unit: kinds[index % len(kinds)].layers[unit] for index, unit in enumerate(kinds[0].layers)
    }
    found["mixed"] = replace_layers(kinds[1], layers)
    return found


def replace_layers(plan: Plan, layers: Mapping[str, Any]) -> Plan:
    """The plan with other formats; only its time is looked at."""
    return plan.model_copy(update={"layers": dict(layers)})


def rows_of(model: str, profile: Profile, folder: Path) -> list[dict[str, Any]]:
    root = Path(__file__).resolve().parent.parent
    loaded = load_model(f"{root / 'examples' / 'models' / model}.py:load")
    assert loaded.calibration is not None
    plans = plans_of(loaded)
    made = export_all(loaded.model, plans, "onnxruntime", folder, loaded.calibration)
    kind = runtime_named("onnxruntime")
    sessions = {}
    for candidate in made:
        if candidate.path is None:
            print(f"{model} {candidate.name}: {candidate.fault}", flush=True)
        else:
            sessions[candidate.name] = kind.open(candidate.path)
    found = []
    for size, rounds in ROUNDS.items():
        batch = workload(loaded.calibration, size)
        blocks = {candidate.name: candidate.blocks for candidate in made}
        expected = predictions(
            loaded.model, plans, loaded.calibration, profile, batch_size=size, blocks=blocks
        )
        searched = predictions(loaded.model, plans, loaded.calibration, profile, batch_size=size)
        warm_s = {name: warm(session, batch) for name, session in sessions.items()}
        timings = measure(sessions, batch, repeat=rounds, warm_s=warm_s)
        predicted = {name: expected[name].latency_s for name in sessions}
        for name, timing in timings.items():
            found.append(
                {
                    "model": model, "plan": name, "batch": size,
                    "measured_ms": 1e3 * timing.cpu_s, "predicted_ms": 1e3 * predicted[name],
                    "searched_ms": 1e3 * searched[name].latency_s,
                    "measured_ratio": timing.cpu_s / timings["fp32"].cpu_s,
                    "predicted_ratio": predicted[name] / predicted["fp32"],
                }
            )  # fmt: skip
            show(found[-1])
    for session in sessions.values():
        session.close()
    return found


def show(row: Mapping[str, Any]) -> None:
    print(
        f"| {row['model']} | {row['plan']} | {row['batch']} | {row['measured_ms']:.2f} | "
        f"{row['predicted_ms']:.2f} | {row['predicted_ms'] / row['measured_ms'] - 1:+.0%} | "
        f"{row['searched_ms']:.2f} | {row['searched_ms'] / row['measured_ms'] - 1:+.0%} | "
        f"{row['measured_ratio']:.2f} | {row['predicted_ratio']:.2f} |",
        flush=True,
    )


def summary(rows: list[dict[str, Any]]) -> str:
    errors = [abs(row["predicted_ms"] / row["measured_ms"] - 1) for row in rows]
    ratios = [
        abs(row["predicted_ratio"] / row["measured_ratio"] - 1)
        for row in rows if row["plan"] != "fp32"
    ]  # fmt: skip
    signed = [math.log(row["predicted_ms"] / row["measured_ms"]) for row in rows]
    return (
        f"{len(rows)} rows: median error {statistics.median(errors):.1%}, {_near(errors):.0%} "
        f"within {NEAR:.0%}, largest {max(errors):.0%}, "
        f"mean {math.exp(statistics.mean(signed)) - 1:+.0%}; "
        f"ratios to fp32: median error {statistics.median(ratios):.1%}, {_near(ratios):.0%} "
        f"within {NEAR:.0%}"
    )


def _near(errors: list[float]) -> float:
    return sum(error <= NEAR for error in errors) / len(errors)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--calibrate", action="store_true")
    parser.add_argument("--hardware", default="host")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = []
    print("| model | plan | batch | measured ms | predicted ms | error | by a search ms | error | "
          "measured / fp32 | predicted / fp32 |\n|---|---|---|---|---|---|---|---|---|---|",
          flush=True)  # fmt: skip
    for model in options.models or MODELS:
        profile = calibrate().profile if options.calibrate else load(options.hardware)
        with tempfile.TemporaryDirectory(prefix="mixq-cost-") as folder:
            rows += rows_of(model, profile, Path(folder))
    print(summary(rows))
    beforehand = [row | {"predicted_ms": row["searched_ms"]} for row in rows]
    print(f"as a search predicts: {summary(beforehand)}")
    if options.output is not None:
        with options.output.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
