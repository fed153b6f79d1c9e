"""Training what a uniform 2-bit plan stores, on unlabelled data: before and after.

    python benchmarks/finetune.py demo minilm

Every unit in one format, rounded to nearest and by GPTQ; then `mixq.finetune` from the latter,
with the original as teacher and unlabelled inputs alone (for MiniLM 2,048 texts: news, and
WordNet's definitions of words that the test does not ask for). `recovered` is the part of the
metric that round-to-nearest at the same bytes loses and that rounding and training together bring
back.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import mixq
from mixq.formats import Format
from mixq.search.palette import Palette
from mixq.sources import load_model

MODELS = Path(__file__).resolve().parents[1] / "examples" / "models"
SETTINGS: dict[str, dict[str, Any]] = {
    "demo": {"steps": 300, "batch_size": 32},
    "minilm": {"steps": 300, "batch_size": 32, "learning_rate": 0.005},
    "efficientnet_lite0": {"steps": 200, "batch_size": 8, "learning_rate": 0.005},
}
FORMAT = Format(2, 64, "zero-point")


def load(name: str, function: str) -> Any:
    return load_model(name if name == "demo" else f"{MODELS / name}.py:{function}")


def uniform_plan(name: str, method: str) -> tuple[mixq.Plan, Any]:
    loaded = load(name, "load_more" if name == "minilm" else "load")
    palette = Palette((2,), (64,), (FORMAT.grid,), method)  # type: ignore[arg-type]
    result = mixq.search(
        loaded.model, loaded.calibration, hardware="intel_cpu", target_compression=1.01,
        palette=palette, evaluate=loaded.evaluate, trials=1, samples=2, sequential=False,
    )  # fmt: skip
    return result.plan, loaded


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", choices=list(SETTINGS))
    parser.add_argument("--start", default="auto", help="rounding method to start from")
    arguments = parser.parse_args()
    print(
        "| model | bytes | metric | fp32 | rtn | start | finetuned | recovered | CPU s |\n"
        + "|---" * 9
        + "|"
    )
    for name in arguments.models:
        nearest, _ = uniform_plan(name, "rtn")
        plan, loaded = uniform_plan(name, arguments.start)
        data = load(name, "load_training" if name == "minilm" else "load").calibration
        start = time.process_time()
        tuned = mixq.finetune(
            loaded.model, plan, data, weights=True, evaluate=loaded.evaluate,
            **SETTINGS[name],
        )  # fmt: skip
        seconds = time.process_time() - start
        metric = next(iter(plan.measured.metric))
        values = [plan.measured.original_metric[metric]]
        values += [p.measured.metric[metric] for p in (nearest, plan, tuned.plan)]
        lost = values[0] - values[1]
        cells = [name, f"{plan.predicted.weight_bytes:,}", metric]
        cells += [f"{value:.4g}" for value in values]
        cells += [f"{(values[3] - values[1]) / lost:.2f}", f"{seconds:.0f}"]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
