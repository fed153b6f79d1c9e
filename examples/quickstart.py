"""Search a plan for the embedded demo model, apply it, save it, load it back, compare.

    python examples/quickstart.py [FOLDER]

Takes some seconds. FOLDER is where the packed model and the plan go, by default the current one.
"""

from __future__ import annotations

import sys
from pathlib import Path

import mixq
from mixq import demo


def main(folder: Path) -> None:
    # Your own model and inputs go here: any nn.Module, and a tensor or a list of batches.
    model, calibration, evaluate = demo.load()

    result = mixq.search(
        model, calibration, hardware="intel_cpu", target_compression=6, evaluate=evaluate
    )
    print(result.plan)
    result.plan.save(folder / "plan.json")

    quantized = result.plan.apply(model)  # a copy; the original is untouched
    file = folder / "demo.mixq.safetensors"
    written = mixq.save(quantized, file)
    loaded = mixq.load(file, model)

    plan = mixq.Plan.load(folder / "plan.json")
    print(f"tensors in {file}: {written:,} bytes, predicted {plan.predicted.weight_bytes:,}")
    for name, candidate in (("original", model), ("quantized", quantized), ("loaded", loaded)):
        print(f"{name:>10}: accuracy {evaluate(candidate)['accuracy']:.3f}")
    for width, uniform in plan.uniform.items():
        size, accuracy = uniform.weight_bytes, uniform.metric["accuracy"]
        print(f"{width:>2} bit everywhere: {size:,} bytes, accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path())
