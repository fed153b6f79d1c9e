"""A search that demands a speed-up on this machine, and what its plan then measures.

    mixq hardware calibrate
    OMP_NUM_THREADS=1 python benchmarks/speedup_host.py [--min-speedup 2]

For each case the speed-up over fp32 is measured by `mixq bench` in ONNX Runtime (process CPU
time, one thread, interleaved rounds), or the search refuses and names what can be reached.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MINILM = ["--model", f"{ROOT}/examples/models/minilm.py:load"]
QUICK = ["--trials", "2", "--rounds", "0", "--one-shot"]
CASES: dict[str, tuple[list[str], list[str], int]] = {
    "MiniLM, batch 16, 8-bit inputs": (
        MINILM,
        [*QUICK, "--activations", "dynamic", "--group-sizes", "channel", "--bits", "32,8"],
        16,
    ),
    "MiniLM, batch 1, weights alone": (MINILM, QUICK, 1),
    "demo, batch 1": ([], QUICK, 1),
}
"""Model, options of the search, batch size."""
BESIDE = ("fp32", "uniform 8", "uniform 4")
"""What mixq bench runs beside the plan."""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = str(Path(sys.executable).with_name("mixq"))
    return subprocess.run([program, *arguments], check=False, capture_output=True, text=True)


def measured(done: dict[str, Any]) -> float:
    """CPU time of fp32 over the plan's."""
    rows = {row["name"]: row for row in done["rows"]}
    plan = next(row for name, row in rows.items() if name not in BESIDE)
    return float(rows["fp32"]["cpu_s"] / plan["cpu_s"])


def case(name: str, speedup: float, folder: Path) -> None:
    model, options, batch = CASES[name]
    size = ["--batch-size", str(batch)]
    demand = ["--hardware", "host", "--threads", "1", "--min-speedup", str(speedup)]
    found = run("search", *model, *demand, *size, *options, "--output", str(folder))
    if found.returncode:
        print(f"| {name} | refused ({found.returncode}): {found.stderr.splitlines()[-1]} | |")
        return
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    predicted = plan["predicted"]
    bench = run(
        "bench", str(folder / "plan.json"), *model, *size, "--repeat", "9", "--format", "json"
    )
    if bench.returncode:
        print(f"| {name} | bench failed: {bench.stderr.splitlines()[-1]} | |")
        return
    print(
        f"| {name} | {predicted['baseline_latency_s'] / predicted['latency_s']:.2f} | "
        f"{measured(json.loads(bench.stdout)):.2f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--min-speedup", type=float, default=2.0)
    arguments = parser.parse_args()
    print("| case | predicted speed-up | measured |\n|---|---|---|", flush=True)
    for name in CASES:
        with tempfile.TemporaryDirectory() as folder:
            case(name, arguments.min_speedup, Path(folder) / "run")


if __name__ == "__main__":
    main()
