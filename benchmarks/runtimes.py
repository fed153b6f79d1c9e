"""One table: models x methods x runtimes, exported, loaded, compared, timed and judged.

For each model the methods are fp32, 8 and 4 bits everywhere (searched scales, zero points at 4
bits), and mixes at 6x and 8x. Each file is written by `mixq export`'s own code, which verifies it,
then timed against the same runtime's fp32 in interleaved rounds (process CPU time, medians of
ratios) at batch 1 and 16, and the model's own evaluation runs through the runtime.

    OMP_NUM_THREADS=1 python benchmarks/runtimes.py --plans FOLDER [MODEL ...] [--runtimes NAME]
        [--option unpack=load]

FOLDER holds, or gets, one run of `mixq search` per model and target: FOLDER/MODEL-6 and so on.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import torch

from mixq.batch import Batch
from mixq.bench.uniform import float_plan, uniform_plan
from mixq.calibration import repeat_sample
from mixq.errors import MixqError
from mixq.export.export import export
from mixq.export.module import RuntimeModule
from mixq.export.registry import runtime as runtime_named
from mixq.formats import Format
from mixq.plan import Plan
from mixq.sources import LoadedModel, load_model

TARGETS = (6, 8)
ROUNDS = {1: 15, 16: 7}
"""Rounds by batch size."""
FEW_ROUNDS = {"mlx": {1: 3}}
"""mlx on a CPU takes 6 seconds for 64 tokens of SmolLM2 and 114 for a batch of 16 of them."""
MODELS = {
    "demo": [],
    "crepe_tiny": [],
    "efficientnet_lite0": ["--equalize", "fold"],
    "minilm": [],
    "smollm2": [
        *("--sensitivity", "sketch", "--method", "clip", "--group-sizes", "64"),
        *("--one-shot", "--trials", "2", "--rounds", "0"),
    ],
}
"""Options of each model's searches; SmolLM2's are the cheap ones."""
GGUF_OPTIONS = ["--group-sizes", "32", "--grids", "affine", "--bits", "32,16,8,4"]
"""What GGUF stores exactly; they replace the model's own group size."""
OF_RUNTIME = {"gguf": ("smollm2",), "mlx": ("smollm2",), "onnxruntime-genai": ("smollm2",)}
"""Models that a runtime takes; the others take all."""


def spec(model: str) -> str | None:
    root = Path(__file__).resolve().parent.parent
    return None if model == "demo" else f"{root / 'examples' / 'models' / model}.py:load"


def searched(model: str, target: float, folder: Path, extra: list[str]) -> Plan | None:
    """The plan of one search, run if its folder has none."""
    if not (folder / "plan.json").is_file():
        program = str(Path(sys.executable).with_name("mixq"))
        command = [program, "search", "--hardware", "intel_cpu"]
        command += ["--target-compression", str(target), "--output", str(folder)]
        where = spec(model)
        command += ["--model", where] if where else []
        done = subprocess.run(
            [*command, *MODELS[model], *extra], check=False, capture_output=True, text=True
        )
        if done.returncode:
            print(
                f"| {model} | | {target}x | {done.stderr.strip().splitlines()[-1]} |", flush=True
            )
            return None
    return Plan.load(folder / "plan.json")


def batches(loaded: LoadedModel, sizes: Iterable[int]) -> dict[int, Batch]:
    assert loaded.calibration is not None
    return {size: repeat_sample(loaded.calibration, size) for size in sizes}


def ratios(sessions: dict[str, Any], batch: Batch, rounds: int) -> dict[str, float]:
    """Median over rounds of CPU time over fp32's in the same round."""
    found: dict[str, list[float]] = {name: [] for name in sessions}
    for session in sessions.values():
        session.run(batch)
    for _ in range(rounds):
        seconds = {}
        for name, session in sessions.items():
            start = time.process_time()
            session.run(batch)
            seconds[name] = time.process_time() - start
        for name, value in seconds.items():
            found[name].append(value / seconds["fp32"])
    return {name: statistics.median(values) for name, values in found.items()}


def everywhere(model: str, loaded: LoadedModel, fmt: Format) -> Plan:
    """One format for every unit, rounded as the search rounds."""
    assert loaded.calibration is not None
    if fmt.bits == 32:
        return float_plan(loaded.model, model)
    return uniform_plan(loaded.model, loaded.calibration, fmt, name=model)


def rows_of(model: str, runtime: str, plans: Path, work: Path, options: Mapping[str, str]) -> None:
    loaded = load_model(spec(model))
    gguf = runtime == "gguf"
    extra = GGUF_OPTIONS if gguf else []
    mark = "-gguf" if gguf else ""
    found = {
        f"mixed {t}x": searched(model, t, plans / f"{model}{mark}-{t}", extra) for t in TARGETS
    }
    targets = {name: plan for name, plan in found.items() if plan is not None}
    uniform = {
        "fp32": Format(32),
        "uniform 8": Format.parse("w8g32-clip" if gguf else "w8g64-clip"),
        "uniform 4": Format.parse("w4g32-affine-clip" if gguf else "w4g64-zp-clip"),
    }
    candidates = {name: everywhere(model, loaded, fmt) for name, fmt in uniform.items()}
    candidates |= targets
    sessions, lines = {}, {}
    for name, plan in candidates.items():
        kind = runtime_named(runtime, **options)
        path = work / f"{model}-{runtime}-{name.replace(' ', '')}{kind.suffix}"
        try:
            done = export(
                loaded.model, plan, path, runtime=runtime, calibration=loaded.calibration,
                tokenizer=loaded.folder, overwrite=True, **options,
            )  # fmt: skip
        except MixqError as error:
            print(f"| {model} | {runtime} | {name} | refused: {error} |", flush=True)
            continue
        sessions[name] = kind.open(path)
        lines[name] = (done, plan)
    rounds = FEW_ROUNDS.get(runtime, ROUNDS)
    speeds = {
        size: ratios(sessions, batch, rounds[size])
        for size, batch in batches(loaded, rounds).items()
    }
    for name, (done, plan) in lines.items():
        metric = ""
        if loaded.evaluate is not None:
            with torch.no_grad():
                metrics = loaded.evaluate(RuntimeModule(sessions[name]))
            primary = getattr(loaded.evaluate, "primary", next(iter(metrics)))
            metric = f"{primary} {metrics[primary]:.4g}"
        times = " | ".join(
            f"{speeds[size][name]:.2f}" if size in speeds else "" for size in ROUNDS
        )
        more = done.tensor_bytes / plan.predicted.weight_bytes - 1
        print(
            f"| {model} | {runtime} | {name} | {done.difference:.1e} | {done.tensor_bytes:,} | "
            f"{done.tensor_bytes - done.predicted_bytes:+,} | {more:+.2%} | {done.file_bytes:,} | "
            f"{times} | {metric} |",
            flush=True,
        )
    for session in sessions.values():
        session.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=[])
    parser.add_argument("--plans", type=Path, required=True)
    parser.add_argument(
        "--runtimes", nargs="+", default=["onnxruntime", "openvino", "mlx", "gguf"]
    )
    parser.add_argument(
        "--option", metavar="NAME=VALUE", action="append", default=[], help="as of mixq export"
    )
    arguments = parser.parse_args()
    options = dict(option.split("=", 1) for option in arguments.option)
    arguments.plans.mkdir(parents=True, exist_ok=True)
    print(f"{date.today()}, {platform.machine()}, one thread, torch {torch.__version__}\n")
    print(
        "| model | runtime | method | outputs differ by | tensor bytes | off prediction "
        "| over plan | file bytes | CPU time, batch 1 | batch 16 | metric through the runtime |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as work:
        for model in arguments.models or list(MODELS):
            for runtime in arguments.runtimes:
                if model in OF_RUNTIME.get(runtime, (model,)):
                    rows_of(model, runtime, arguments.plans, Path(work), options)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
