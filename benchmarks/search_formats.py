"""What grids, group sizes and rounding methods in the search buy over round-to-nearest alone.

    python benchmarks/search_formats.py demo crepe_tiny efficientnet_lite0 minilm
    python benchmarks/search_formats.py smollm2 --samples 1 --trials 2 --group-sizes 64

Two searches under one budget, the bytes of uniform 4, 3 and 2.5 bits (with the quarter bit per
weight that float16 scales of groups of 64 take): symmetric grid, groups of 64 and round-to-nearest
only, and everything that a search may choose by default. Prints the held-out error of both, of the
best uniform width of no more bytes in the second search's formats, and the headline metric.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import get_args

import mixq
from mixq.batch import call
from mixq.graph.build import build_graph
from mixq.search.palette import DEFAULT_GROUP_SIZES, Palette
from mixq.search.request import Equalize
from mixq.sources import load_model

MODELS = Path(__file__).resolve().parents[1] / "examples" / "models"
WIDTHS = (4.0, 3.0, 2.5)
SCALE_BITS = 0.25
BITS = (32, 8, 4, 2)
PLAIN = Palette(BITS, (64,), ("symmetric",), "rtn")
MORE = ("minilm", "smollm2")
"""Models with a loader that brings more data than sensitivities can be measured on."""


def bench(
    name: str,
    folder: Path,
    samples: int | None,
    trials: int,
    equalize: Equalize,
    group_sizes: list[int],
    widths: list[float],
    metric: str,
) -> None:
    function = "load_more" if name in MORE else "load"
    loaded = load_model(name if name == "demo" else f"{MODELS / name}.py:{function}")
    assert loaded.calibration is not None
    batch = loaded.calibration.take(1).batches[0]
    graph = build_graph(loaded.model, lambda: call(loaded.model, batch))
    weights = sum(unit.weights for unit in graph.units.values())
    for width in widths:
        size_mb = (graph.other_bytes + weights * (width + SCALE_BITS) / 8) / 1e6
        plans = []
        start = time.process_time()
        for kind, palette in (("rtn", PLAIN), ("all", Palette(BITS, group_sizes))):
            result = mixq.search(
                loaded.model, loaded.calibration, hardware="intel_cpu", max_size_mb=size_mb,
                palette=palette, evaluate=loaded.evaluate, samples=samples, trials=trials,
                sensitivity="measured", metric=metric,
                equalize=equalize if kind == "all" else "none",
                folder=folder / f"{name}-{kind}-{equalize}", name=name,
            )  # fmt: skip
            plans.append(result.plan)
        plain, chosen = (plan.measured.heldout_error or 0.0 for plan in plans)
        judged = next(iter(plans[1].measured.metric))
        size = plans[1].predicted.weight_bytes
        rivals = [u for u in plans[1].uniform.values() if u.weight_bytes <= size]
        best = min((u.heldout_error or 0.0 for u in rivals), default=None)
        cells = [
            name,
            f"{width:g}",
            f"{size_mb:.3f}",
            f"{plain:.4g}",
            f"{chosen:.4g}",
            f"{chosen / plain:.2f}",
            "none fits" if best is None else f"{best:.4g}",
            judged,
            f"{plans[1].measured.original_metric[judged]:.4g}",
            *(f"{plan.measured.metric[judged]:.4g}" for plan in plans),
            f"{time.process_time() - start:.0f}",
        ]
        print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+")
    parser.add_argument("--folder", type=Path, default=Path("benchmark-runs"))
    parser.add_argument("--samples", type=int)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--group-sizes", type=int, nargs="+", default=list(DEFAULT_GROUP_SIZES))
    parser.add_argument("--widths", type=float, nargs="+", default=list(WIDTHS))
    parser.add_argument("--metric", default="mse")
    parser.add_argument("--equalize", choices=get_args(Equalize), default="none")
    arguments = parser.parse_args()
    columns = (
        "model", "bits", "MB", "error, rtn only", "error, all", "ratio",
        "best uniform of all", "metric", "fp32", "rtn only", "all", "CPU s",
    )  # fmt: skip
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name in arguments.models:
        bench(
            name, arguments.folder, arguments.samples, arguments.trials, arguments.equalize,
            arguments.group_sizes, arguments.widths, arguments.metric,
        )  # fmt: skip


if __name__ == "__main__":
    main()
