"""Rounding methods and grids, one format for every unit: error, metrics, bits per weight, seconds.

    python benchmarks/rounding.py minilm crepe_tiny efficientnet_lite0
    python benchmarks/rounding.py smollm2 --formats w4g64,w4g64-zp-gptq,w4g64-affine-gptq

prints one row per format. Errors are squared output errors over the original's power, on samples
of the calibration's own kind that nothing was fitted to (its last quarter), and on other inputs:
WordNet's definitions for the language models, noise for CREPE, other photos for
EfficientNet-Lite0.
Beside each stands what it is of round-to-nearest's on the symmetric grid with the same width and
groups. `-seq` behind a format rounds in the order in which units run (mixq.rounding.sequential).
The models need what examples/models/README.md says. CPU seconds are those of rounding alone.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mixq.batch import call
from mixq.calibration import Calibration
from mixq.errors import FormatError, NonFiniteError
from mixq.formats import Format
from mixq.graph.build import build_graph
from mixq.moments.collect import STAGE, collect
from mixq.rounding.rounder import Rounder
from mixq.rounding.sequential import round_in_sequence
from mixq.sensitivity.joint import dequantized_copy, joint_errors
from mixq.sensitivity.reference import Reference
from mixq.sources import load_model
from mixq.sources.loaded import LoadedModel

MODELS = Path(__file__).resolve().parents[1] / "examples" / "models"
SAMPLES = {"minilm": "load_more", "smollm2": "load_more"}
"""Models whose loader has a variant with more calibration data than measuring can afford."""
TAILS = (
    *("", "-signed", "-zp", "-affine", "-squant", "-zp-squant"),
    *("-clip", "-signed-clip", "-zp-clip", "-affine-clip", "-zp-hqq", "-affine-hqq"),
    *("-gptq", "-signed-gptq", "-zp-gptq", "-affine-gptq", "-affine-gptq-bc"),
)
SEQUENTIAL = [f"w{bits}g64{grid}-gptq-seq" for bits in (4, 2) for grid in ("-zp", "-affine")]
EVERYTHING = [
    *(f"w{bits}{group}{tail}" for bits in (8, 4, 2) for group in ("g64", "") for tail in TAILS),
    *SEQUENTIAL,
]


def load(name: str) -> LoadedModel:
    function = SAMPLES.get(name, "load")
    return load_model(name if name == "demo" else f"{MODELS / name}.py:{function}")


def other_inputs(name: str, loaded: LoadedModel) -> Calibration | None:
    """Inputs of another kind than the calibration's."""
    evaluate: Any = loaded.evaluate  # the examples' own classes keep their inputs
    if name == "minilm":
        return Calibration.of(evaluate.definitions[:6])
    if name == "efficientnet_lite0":
        return Calibration.of(list(torch.split(evaluate.images[::2], 8)))
    if name == "crepe_tiny":
        noise = torch.randn(128, 1024, generator=torch.Generator().manual_seed(0))
        return Calibration.of(list(torch.split(noise, 32)))
    if name == "smollm2":
        return Calibration.of(evaluate.definitions)
    return None


def assignment_of(rounder: Rounder, fmt: Format) -> dict[str, Format]:
    """One format for every unit; units that its method cannot serve get `clip`."""
    assignment = {}
    for unit in rounder.units:
        own = fmt
        moments = rounder.moments.get(unit)
        if fmt.method == "gptq" and (moments is None or moments.second is None):
            own = replace(own, method="clip")
        if fmt.bias_corrected and (unit not in rounder.biases or moments is None):
            own = replace(own, bias_corrected=False)
        assignment[unit] = own
    return assignment


def round_all(rounder: Rounder, formats: list[Format]) -> dict[Format, float]:
    """CPU seconds of rounding every unit in each format; unit by unit, because GPTQ's formats
    share what they need of a unit's inputs, which the first of them pays for."""
    seconds = dict.fromkeys(formats, 0.0)
    assignments = {fmt: assignment_of(rounder, fmt) for fmt in formats}
    for unit in rounder.units:
        for fmt in formats:
            start = time.process_time()
            with contextlib.suppress(FormatError):  # said when the whole format is tried
                rounder.packed(unit, assignments[fmt][unit])
            seconds[fmt] += time.process_time() - start
    return seconds


def bench(name: str, formats: list[str]) -> None:
    loaded = load(name)
    assert loaded.calibration is not None
    model = loaded.model
    tuning, heldout = loaded.calibration.split()
    assert heldout is not None
    batch = tuning.take(1).batches[0]
    graph = build_graph(model, lambda: call(model, batch))
    weights = sum(unit.weights for unit in graph.units.values())
    others = other_inputs(name, loaded)
    parts = {"in domain": heldout} | ({} if others is None else {"other": others})
    references = {part: Reference(model, data) for part, data in parts.items()}
    start = time.process_time()
    moments = collect(model, tuning, graph.units.values())
    print(
        f"\n### {name}: {tuning.samples} samples to learn from, {STAGE} "
        f"{time.process_time() - start:.0f} CPU s\n"
    )
    columns = ["format", "bits/weight"]
    for part in references:
        columns += [part, "of rtn"]
    columns += ["metrics", "CPU s"]
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    base: dict[tuple[int, int | None], Mapping[str, float]] = {}
    if loaded.evaluate is not None:
        shown = metrics_of(loaded.evaluate(model))
        print("| w32 | 32 |" + " 0 | |" * len(references) + f" {shown} | |")
    rounder = Rounder(model, graph.units, moments)
    parsed = {text: Format.parse(text.removesuffix("-seq")) for text in formats}
    all_seconds = round_all(rounder, list(dict.fromkeys(parsed.values())))
    for text, fmt in parsed.items():
        assignment, seconds = assignment_of(rounder, fmt), all_seconds[fmt]
        known = rounder
        try:
            if text.endswith("-seq"):
                start = time.process_time()
                known = round_in_sequence(rounder, graph, assignment, tuning)
                seconds += time.process_time() - start
            errors = joint_errors(known, assignment, references, text)
        except (FormatError, NonFiniteError) as error:
            print(f"| {text} | refused: {error} |")
            continue
        relative = {
            part: statistics.fmean(errors[part]) / reference.power
            for part, reference in references.items()
        }
        key = (fmt.bits, fmt.group_size)
        base.setdefault(
            key, relative if text in ("w8g64", "w8", "w4g64", "w4", "w2g64", "w2") else {}
        )
        stored = sum(unit.stored_bytes(assignment[u]) for u, unit in graph.units.items())
        cells = [text, f"{stored * 8 / weights:.3f}"]
        for part, value in relative.items():
            first = base[key].get(part)
            cells += [f"{value:.4g}", "" if first is None else f"{value / first:.3f}"]
        metrics = (
            {} if loaded.evaluate is None else loaded.evaluate(dequantized_copy(known, assignment))
        )
        cells += [metrics_of(metrics), f"{seconds:.1f}"]
        print("| " + " | ".join(cells) + " |", flush=True)


def metrics_of(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{key} {value:.4g}" for key, value in metrics.items())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+")
    parser.add_argument("--formats", default=",".join(EVERYTHING), metavar="LIST")
    arguments = parser.parse_args()
    for name in arguments.models:
        bench(name, arguments.formats.split(","))


if __name__ == "__main__":
    main()
