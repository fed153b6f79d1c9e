"""Train what a 2-bit plan of the embedded demo stores, at the same bytes and without labels.

    python examples/finetune_demo.py

Takes half a minute. The calibration images and the original model's own outputs are all that is
learned from; labels serve only to print accuracies.
"""

from __future__ import annotations

import mixq
from mixq import demo
from mixq.search.palette import Palette


def main() -> None:
    model, calibration, evaluate = demo.load()

    # 2 bits everywhere, each weight to the nearest code: what training has most to repair.
    palette = Palette(bits=(2,), group_sizes=(64,), method="rtn")
    plan = mixq.search(
        model, calibration, hardware="intel_cpu", target_compression=2, palette=palette
    ).plan

    # Scales, offsets, biases and norms; then the weights under the codes as well.
    steps = mixq.finetune(model, plan, calibration)
    weights = mixq.finetune(model, plan, calibration, weights=True)

    accuracy = evaluate(model)["accuracy"]
    print(f"{'original':>15}: {plan.model.original_bytes:,} bytes, accuracy {accuracy:.3f}")
    for name, one in (
        ("2 bits, rounded", plan),
        ("scales trained", steps.plan),
        ("weights trained", weights.plan),
    ):
        accuracy = evaluate(one.apply(model))["accuracy"]
        print(f"{name:>15}: {one.predicted.weight_bytes:,} bytes, accuracy {accuracy:.3f}")
    print(weights.note)


if __name__ == "__main__":
    main()
