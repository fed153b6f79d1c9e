"""SmolLM2 in llama.cpp: a mixed plan in GGUF's own types beside llama.cpp's own recipes.

    python benchmarks/gguf_files.py                             # bytes of Q4_K_M, Q3_K_M, Q2_K
    python benchmarks/gguf_files.py --targets Q2_K 78           # a recipe's bytes, or megabytes
    python benchmarks/gguf_files.py --plan mixq-run/plan.json   # a plan that is there

Every plan is searched among formats that GGUF stores exactly and that cost there what they cost
in the plan: w8g32, w4g32-affine and w4g32-signed. Perplexity is llama.cpp's, on the windows of
examples/models/smollm2.py. The weights that this model ships lie on Q4_1's and Q8_0's grids
already, so a plan that keeps those formats loses nothing; see docs/gguf.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor, nn

import mixq
from mixq.calibration import Calibration
from mixq.export.gguf.file import tensor_bytes
from mixq.export.gguf.overrides import overrides
from mixq.export.gguf.quantize import write_float, write_overridden, write_recipe
from mixq.export.gguf.runtime import Gguf
from mixq.export.gguf.session import LlamaCpp
from mixq.export.source import Source
from mixq.plan import Plan
from mixq.search.palette import Palette
from mixq.sources import LoadedModel, load_model

MODEL = Path(__file__).resolve().parents[1] / "examples" / "models" / "smollm2.py"
MIXES = {"Q4_K": {8: "Q8_0", 4: "Q4_K"}, "Q3_K": {8: "Q6_K", 4: "Q3_K"}}
"""Types of a plan's widths in the runs through llama.cpp's own rounding."""


def searched(loaded: LoadedModel, size_mb: float, arguments: argparse.Namespace) -> Plan:
    """The plan of least divergence whose tensors take no more than `size_mb` megabytes."""
    assert loaded.calibration is not None
    texts = loaded.calibration.take(arguments.texts or loaded.calibration.samples)
    result = mixq.search(
        loaded.model, texts, hardware="intel_cpu", max_size_mb=size_mb,
        palette=Palette((8, 4), (32,), arguments.grids, arguments.method),
        evaluate=loaded.evaluate, trials=arguments.trials, rounds=arguments.rounds,
        samples=arguments.samples,
        sensitivity=arguments.sensitivity, folder=arguments.folder, metric="kl", name="smollm2",
    )  # fmt: skip
    return result.plan


def move_off_grid(model: nn.Module, seed: int) -> None:
    """Move every weight by up to half a step of the grid that it was shipped on, in place.

    The weights before SmolLM2's makers or packers rounded them lay somewhere there, so this is a
    model as plausible, whose weights favour no type.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() < 2:
                continue
            blocks = weight.view(weight.shape[0], -1, 32)
            if "embed" in name:  # Q8_0
                step = blocks.abs().amax(-1, keepdim=True) / 127
            else:  # Q4_1
                step = (blocks.amax(-1, keepdim=True) - blocks.amin(-1, keepdim=True)) / 15
            blocks.add_((torch.rand(blocks.shape, generator=generator) - 0.5) * step)


def print_row(label: str, path: Path, windows: Tensor, note: str = "") -> None:
    start = time.process_time()
    session = LlamaCpp(path)
    perplexity = session.perplexity(windows)
    session.close()
    seconds = time.process_time() - start
    size = path.stat().st_size
    print(f"| {label} | {size:,} | {perplexity:.2f} | {seconds:.1f} | {note} |", flush=True)


def print_plan(label: str, plan: Plan, loaded: LoadedModel, target: Path, k_types: bool) -> None:
    """Rows of a plan: its own integers, and its widths through llama.cpp's rounding."""
    windows = loaded.evaluate.windows
    few = Calibration.of(loaded.calibration.batches[:1])
    source = Source.of(loaded.model, plan, few)
    runtime = Gguf()
    runtime.check(source)
    written = runtime.write(source, target)
    assert written.tensor_bytes == written.predicted_bytes
    names = Counter(layer.format.name for layer in plan.layers.values())
    print_row(
        label, target, windows, ", ".join(f"{n} {name}" for name, n in sorted(names.items()))
    )
    for name, types in MIXES.items() if k_types else ():
        write_overridden(source, target, types)
        fallen = sum(bool(item.note) for item in overrides(source, types))
        note = f"{fallen} of {len(plan.layers)} tensors fell back"
        print_row(f"{label}, as {name} and {types[8]}", target, windows, note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--plan", type=Path, nargs="*", default=[])
    parser.add_argument("--targets", nargs="*", default=["Q4_K_M", "Q3_K_M", "Q2_K"])
    parser.add_argument("--method", default="rtn", help="of rounding, or auto")
    parser.add_argument("--grids", nargs="*", default=["affine", "signed"])
    parser.add_argument("--texts", type=int, help="of calibration, of all that there are")
    parser.add_argument("--samples", type=int, default=2, help="that errors are measured on")
    parser.add_argument("--trials", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument(
        "--sensitivity", default="measured", choices=("measured", "auto", "sketch")
    )
    parser.add_argument("--folder", type=Path, help="keeps the plans")
    parser.add_argument("--recipes", nargs="*", default=["Q8_0", "Q4_K_M", "Q3_K_M", "Q2_K"])
    parser.add_argument("--off-grid", type=int, metavar="SEED", help="see move_off_grid")
    parser.add_argument("--no-k-types", action="store_true")
    arguments = parser.parse_args()
    loaded = load_model(
        f"{MODEL}:{'load' if arguments.method in ('clip', 'rtn') else 'load_more'}"
    )
    tokenizer = Path(loaded.model.config._name_or_path)
    if arguments.off_grid is not None:
        move_off_grid(loaded.model, arguments.off_grid)
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "model.gguf"
        print("| file | bytes | perplexity | CPU s | tensors |\n|---|---|---|---|---|")
        write_float(loaded.model, tokenizer, target)
        print_row("F32", target, loaded.evaluate.windows)
        sizes = {}
        for recipe in arguments.recipes:
            write_recipe(loaded.model, tokenizer, target, recipe)
            sizes[recipe] = tensor_bytes(target)
            print_row(recipe, target, loaded.evaluate.windows)
        plans = {f"plan {path}": Plan.load(path) for path in arguments.plan}
        for goal in [] if plans else arguments.targets:
            size_mb = sizes[goal] / 1e6 if goal in sizes else float(goal)
            label = f"plan, bytes of {goal}" if goal in sizes else f"plan, {goal} MB"
            start = time.process_time()
            plans[label] = searched(loaded, size_mb, arguments)
            print(f"searched: {label}, {time.process_time() - start:.0f} CPU s", file=sys.stderr)
            if arguments.folder:
                plans[label].save(arguments.folder / f"plan-{goal}.json")
            print_plan(label, plans.pop(label), loaded, target, not arguments.no_k_types)
        for label, plan in plans.items():
            print_plan(label, plan, loaded, target, not arguments.no_k_types)


if __name__ == "__main__":
    main()
