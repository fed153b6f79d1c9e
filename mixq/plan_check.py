"""Check of a plan by itself: does it add up, does it keep its budget?"""

from __future__ import annotations

import math

from mixq.errors import PlanError
from mixq.plan import Plan


def check_plan(plan: Plan) -> list[str]:
    """What holds, one sentence each.

    Raises:
        PlanError: naming the first thing that does not.
    """
    for name, layer in plan.layers.items():
        rows, columns = layer.matrix
        if rows * columns != math.prod(layer.shape):
            raise PlanError(
                f"layer {name!r:.100} is a {rows} x {columns} matrix, but its shape is "
                f"{layer.shape}; the plan was edited, search again"
            )
        if layer.bits != 32 and layer.weight_bytes != layer.format.stored_bytes(rows, columns):
            raise PlanError(
                f"layer {name!r:.100} says {layer.weight_bytes} bytes, but {rows} x {columns} in "
                f"{layer.format.name} takes {layer.format.stored_bytes(rows, columns)}; "
                "search again"
            )
    layers = sum(layer.weight_bytes for layer in plan.layers.values())
    predicted = plan.predicted
    if layers > predicted.weight_bytes:
        raise PlanError(
            f"the layers take {layers} bytes, but the plan says {predicted.weight_bytes} in all; "
            "search again"
        )
    compression = plan.model.original_bytes / max(predicted.weight_bytes, 1)
    if not math.isclose(compression, predicted.compression, rel_tol=1e-9):
        raise PlanError(
            f"the plan says compression {predicted.compression}, but its bytes give {compression}"
        )
    held = [
        f"{len(plan.layers)} layers, bytes of each as its format takes",
        f"{predicted.weight_bytes:,} bytes in all, {compression:.4g}x smaller",
    ]
    for name, demanded, reached, at_least in _demands(plan):
        kept = reached >= demanded if at_least else reached <= demanded
        if not kept:
            raise PlanError(
                f"the plan demands {name} {demanded:g}, but it reaches {reached:g}; search again"
            )
        held.append(f"{name} {demanded:g} demanded, {reached:g} reached")
    return held


def _demands(plan: Plan) -> list[tuple[str, float, float, bool]]:
    """(name, demanded, reached, whether more is better) of every demand that a plan can show."""
    predicted = plan.predicted
    reached = {
        "compression": (predicted.compression, True),
        "max_size_bytes": (predicted.weight_bytes, False),
        "max_latency_s": (predicted.latency_s, False),
        "min_speedup": (
            predicted.baseline_latency_s / predicted.latency_s
            if predicted.latency_s
            else math.inf,
            True,
        ),
        "max_memory_bytes": (predicted.peak_memory_bytes, False),
        "max_error": (plan.measured.error, False),
    }
    return [
        (name, demanded, *reached[name])
        for name, demanded in plan.budget.items()
        if name in reached
    ]
