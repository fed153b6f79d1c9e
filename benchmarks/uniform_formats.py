"""One format for every weight unit of a model: output error, metrics, compression.

    python benchmarks/uniform_formats.py efficientnet_lite0 w8g64 w4g64 w4g64-zp w4g64-zp-squant

prints one row per format. The models other than `demo` need what examples/models/README.md says.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from mixq.batch import call
from mixq.formats import Format
from mixq.graph.build import build_graph
from mixq.sensitivity.joint import dequantized_copy, joint_errors
from mixq.sensitivity.reference import Reference
from mixq.sources import load_model

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("formats", nargs="+", type=Format.parse)
    arguments = parser.parse_args()
    name = arguments.model
    spec = name if name == "demo" else f"{ROOT / 'examples' / 'models' / name}.py:load"
    loaded = load_model(spec)
    assert loaded.calibration is not None
    assert loaded.evaluate is not None
    model = loaded.model
    tuning, heldout = loaded.calibration.split()
    assert heldout is not None
    batch = tuning.take(1).batches[0]
    graph = build_graph(model, lambda: call(model, batch))
    references = {"calibration": Reference(model, tuning), "heldout": Reference(model, heldout)}
    print(
        "| format | compression | output error | held-out error | metrics |\n|---|---|---|---|---|"
    )
    for fmt in arguments.formats:
        assignment = dict.fromkeys(graph.units, fmt)
        errors = joint_errors(model, graph.units, assignment, references, fmt.name)
        metrics = loaded.evaluate(dequantized_copy(model, graph.units, assignment))
        stored = graph.other_bytes + sum(u.stored_bytes(fmt) for u in graph.units.values())
        shown = ", ".join(f"{key} {value:.4g}" for key, value in metrics.items())
        error, unseen = (statistics.fmean(errors[part]) for part in references)
        compression = graph.original_bytes / stored
        row = f"| {fmt.name} | {compression:.2f} | {error:.4g} | {unseen:.4g} | {shown} |"
        print(row, flush=True)


if __name__ == "__main__":
    main()
