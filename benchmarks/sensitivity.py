"""Ways to measure sensitivities, side by side: seconds, and whether the bits are the same.

    OMP_NUM_THREADS=1 python benchmarks/sensitivity.py crepe_tiny minilm efficientnet_lite0
    OMP_NUM_THREADS=1 python benchmarks/sensitivity.py smollm2 --samples 1 --every 20

Every unit at 8, 4 and 2 bits, rounded to nearest in groups of 64. *naive*: the whole model for
each measurement. *measured*: what follows the unit alone. *limit*: what could be gained at most if
only arithmetic took time: multiply-accumulates of the pass over those from each unit on, on
average, as the traced pass has them. With --every N only each Nth unit is measured, in both ways.
CPU seconds; the two take turns, so that whatever else the machine does slows both.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from mixq.batch import call
from mixq.formats import Format
from mixq.graph.build import build_graph
from mixq.rounding.rounder import Rounder
from mixq.sensitivity.engine import Engine
from mixq.sensitivity.reference import Reference
from mixq.sources import load_model

MODELS = Path(__file__).resolve().parents[1] / "examples" / "models"
FORMATS = [Format.parse(text) for text in ("w8g64", "w4g64-zp", "w2g64-zp")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--every", type=int, default=1)
    arguments = parser.parse_args()
    print(
        "| model | samples | units | measurements | naive, CPU s | measured | ratio | limit | "
        "same bits |\n" + "|---" * 9 + "|"
    )
    for name in arguments.models:
        print(row(name, arguments.samples, arguments.every), flush=True)


def row(name: str, samples: int, every: int) -> str:
    loaded = load_model(name if name == "demo" else f"{MODELS / name}.py:load")
    assert loaded.calibration is not None
    calibration = loaded.calibration.take(samples)
    batch = calibration.take(1).batches[0]
    graph = build_graph(loaded.model, lambda: call(loaded.model, batch))
    rounder = Rounder(loaded.model, graph.units)
    reference = Reference(loaded.model, calibration)
    seconds = {"naive": 0.0, "measured": 0.0}
    start = time.process_time()
    engine = Engine(reference)
    seconds["measured"] += time.process_time() - start
    names = {unit.name: (unit.name, *unit.aliases) for unit in graph.units.values()}
    order = sorted(names, key=lambda unit: engine.order(names[unit]))
    nodes = list(graph.digraph.nodes(data=True))
    macs = [data["work"].macs for _, data in nodes]
    after = []
    same = True
    chosen = order[::every]
    for unit in chosen:
        first = next((i for i, (_, data) in enumerate(nodes) if unit in data["units"]), len(nodes))
        after.append(sum(macs[first:]))
        for fmt in FORMATS:
            replacement = rounder.replacement(unit, fmt)
            start = time.process_time()
            found = engine.errors(unit, replacement, unit)
            middle = time.process_time()
            expected = reference.errors(replacement, unit)
            seconds["measured"] += middle - start
            seconds["naive"] += time.process_time() - middle
            same &= found == expected
    cells = [
        name,
        str(calibration.samples),
        str(len(chosen)),
        str(len(chosen) * len(FORMATS)),
        f"{seconds['naive']:.1f}",
        f"{seconds['measured']:.1f}",
        f"{seconds['naive'] / seconds['measured']:.2f}",
        f"{sum(macs) / statistics.fmean(after):.2f}",
        "yes" if same else "NO",
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
