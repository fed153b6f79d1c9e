"""Memory and file sizes, predicted and measured, of models in ONNX Runtime.

For each model: fp32, 8 and 4 bits everywhere, and a mix of widths that goes round the units; each
at batch 1 and 16. The prediction is `CostTable.peak_memory_bytes` of the traced model, the
measurement the most that a fresh process grew by from before it loaded the file until it had run
it three times (`mixq.bench.memory`: peak resident set less what was resident before).
Interpreter, torch, the runtime's library as far as importing it loads it, and the inputs were
there before and count on neither side; pages of the library that loading and running a model
bring in do count. Weights are rounded to the nearest: only their bytes matter here.

    OMP_NUM_THREADS=1 python benchmarks/memory.py [MODEL ...] [--stacks] [--batch 1 16]

With --stacks the rows are those that the constants of `mixq.cost.memory` were taken from: stacks
of equal layers. No model is among them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path

import torch
from torch import Tensor, nn

from mixq.batch import call
from mixq.bench.memory import measure_memory, write_batch
from mixq.bench.uniform import float_plan
from mixq.calibration import Calibration, repeat_sample
from mixq.cost.build import build_cost_table
from mixq.errors import MixqError
from mixq.export.export import export
from mixq.formats import Format
from mixq.graph.build import build_graph
from mixq.graph.find import find_units
from mixq.plan import Plan
from mixq.profiles import load
from mixq.sources import load_model

MODELS = ("demo", "crepe_tiny", "efficientnet_lite0", "minilm", "smollm2")
PLANS = {
    "fp32": ("w32",),
    "uniform 8": ("w8g64",),
    "uniform 4": ("w4g64-zp",),
    "mixed": ("w4g64-zp", "w8g64", "w32", "w4g64-zp", "w2g64-zp"),
}
RUNTIME = "onnxruntime"


class Tables(nn.Module):
    """Three look-ups and a small product."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList([nn.Embedding(20_000, 256) for _ in range(3)])
        self.last = nn.Linear(256, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        found: Tensor = self.last(sum(table(tokens) for table in self.tables))
        return found


class Recurrent(nn.Module):
    """Three layers of an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(512, 512, num_layers=3, batch_first=True)

    def forward(self, frames: Tensor) -> Tensor:
        found: Tensor = self.lstm(frames)[0]
        return found


def linear(width: int, layers: int) -> nn.Module:
    return nn.Sequential(*(m for _ in range(layers) for m in (nn.Linear(width, width), nn.ReLU())))


def convolutions(channels: int, layers: int) -> nn.Module:
    def layer() -> list[nn.Module]:
        window = nn.Conv2d(channels, channels, 3, padding=1)
        return [window, nn.BatchNorm2d(channels), nn.ReLU()]

    return nn.Sequential(*(m for _ in range(layers) for m in layer()))


STACKS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "linear 512 x 40": lambda: (linear(512, 40), torch.randn(4, 512)),
    "linear 1024 x 10": lambda: (linear(1024, 10), torch.randn(4, 1024)),
    "linear 3072 x 2": lambda: (linear(3072, 2), torch.randn(4, 3072)),
    "conv 128 x 40": lambda: (convolutions(128, 40), torch.randn(2, 128, 4, 4)),
    "conv 512 x 4": lambda: (convolutions(512, 4), torch.randn(2, 512, 4, 4)),
    "embedding x 3": lambda: (Tables(), torch.randint(0, 20_000, (2, 8))),
    "lstm 512 x 3": lambda: (Recurrent(), torch.randn(1, 4, 512)),
}


def model_of(name: str) -> tuple[nn.Module, Calibration]:
    if name in STACKS:
        torch.manual_seed(0)
        model, batch = STACKS[name]()
        return model.eval(), Calibration.of([batch, batch])
    root = Path(__file__).resolve().parent.parent / "examples" / "models"
    loaded = load_model(None if name == "demo" else f"{root / name}.py:load")
    assert loaded.calibration is not None
    return loaded.model, loaded.calibration


def plan_of(model: nn.Module, name: str, formats: Sequence[str]) -> Plan:
    """The formats round the units, rounded to the nearest."""
    plan = float_plan(model, name)
    units = {unit.name: unit for unit in find_units(model)}
    layers = {}
    for (unit, layer), text in zip(plan.layers.items(), cycle(formats), strict=False):
        fmt = Format.parse(text)
        layers[unit] = layer.model_copy(
            update={
                "bits": fmt.bits, "group_size": fmt.group_size, "grid": fmt.grid,
                "weight_bytes": units[unit].stored_bytes(fmt),
            }
        )  # fmt: skip
    saved = sum(plan.layers[unit].weight_bytes - layers[unit].weight_bytes for unit in layers)
    size = plan.predicted.weight_bytes - saved
    predicted = plan.predicted.model_copy(
        update={"weight_bytes": size, "compression": plan.model.original_bytes / size}
    )
    return plan.model_copy(update={"layers": layers, "predicted": predicted})


def rows_of(name: str, batches: Sequence[int], work: Path) -> Iterator[tuple[float, float]]:
    """Relative errors of memory and file bytes; each row is printed."""
    model, calibration = model_of(name)
    graphs = {}
    for size in batches:
        batch = repeat_sample(calibration, size)
        write_batch(batch, work / f"{size}.batch")
        graphs[size] = build_graph(model, lambda b=batch: call(model, b), batch_size=size)
    for kind, formats in PLANS.items():
        plan, path = plan_of(model, name, formats), work / "model.onnx"
        try:
            done = export(
                model, plan, path, runtime=RUNTIME, calibration=calibration, overwrite=True
            )
        except MixqError as error:
            print(f"| {name} | {kind} | refused: {error} |", flush=True)
            continue
        for size, graph in graphs.items():
            chosen = plan.assignment
            costs = build_cost_table(
                graph, {unit: (fmt,) for unit, fmt in chosen.items()}, load("intel_cpu"), threads=1
            )
            predicted = costs.peak_memory_bytes(chosen)
            bound = costs.constant_memory_bytes + sum(
                costs.memory_bytes(unit, fmt) for unit, fmt in chosen.items()
            )
            measured = measure_memory(RUNTIME, path, work / f"{size}.batch", 1)
            assert measured is not None
            error = predicted / measured.peak_bytes - 1
            file_error = costs.file_bytes(chosen) / done.file_bytes - 1
            print(
                f"| {name} | {kind} | {size} | {predicted / 1e6:.1f} | {bound / 1e6:.1f} | "
                f"{measured.peak_bytes / 1e6:.1f} | {error:+.1%} | {costs.file_bytes(chosen):,} | "
                f"{done.file_bytes:,} | {file_error:+.2%} | "
                f"{costs.weight_bytes(chosen) / done.tensor_bytes - 1:+.2%} |",
                flush=True,
            )
            yield error, file_error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--stacks", action="store_true")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16])
    arguments = parser.parse_args()
    names = arguments.models or (list(STACKS) if arguments.stacks else list(MODELS))
    print(
        "| model | plan | batch | predicted MB | bound MB | measured MB | error | "
        "predicted file bytes | file bytes | error | tensors |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    errors: list[tuple[float, float]] = []
    for name in names:
        with tempfile.TemporaryDirectory() as work:
            errors += rows_of(name, arguments.batch, Path(work))
    memory, files = ([abs(pair[i]) for pair in errors] for i in (0, 1))
    within = sum(value <= 0.15 for value in memory) / len(memory)
    print(
        f"\n{len(errors)} rows: memory median {statistics.median(memory):.1%}, largest "
        f"{max(memory):.1%}, within 15% {within:.0%}; file bytes median "
        f"{statistics.median(files):.2%}, largest {max(files):.2%}, within 3% "
        f"{sum(value <= 0.03 for value in files) / len(files):.0%}"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
