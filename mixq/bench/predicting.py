"""Predicting: what a chip's profile says of the very calls that are benched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from torch import nn

from mixq.batch import call, sample_count
from mixq.bench.candidate import Predicted
from mixq.bench.workload import workload
from mixq.calibration import Calibration
from mixq.cost.build import build_cost_table
from mixq.formats import Format
from mixq.graph.build import build_graph
from mixq.graph.evaluating import evaluating
from mixq.plan import Plan
from mixq.profiles import Profile

MEMORY_RUNTIME: Final = "onnxruntime"
"""Whose allocator `mixq.cost.memory` plays; what others take is not known."""


def predictions(
    model: nn.Module,
    plans: Mapping[str, Plan],
    calibration: Calibration,
    profile: Profile,
    *,
    batch_size: int,
    sequence: int | None = None,
    runtime: str | None = None,
    threads: int | None = None,
    blocks: Mapping[str, Mapping[str, int]] | None = None,
) -> dict[str, Predicted]:
    """The predicted time and peak memory of each plan, and the time of 32 bits.

    Args:
        model: the original.
        plans: by name.
        calibration: whose first sample is run.
        profile: the chip.
        batch_size: samples of one call.
        sequence: tokens of each sample; None for all of them.
        runtime: of the profile, by default its own choice.
        threads: of one call, by default the profile's own choice.
        blocks: of some plans, by name, the kernels that the exporter chose
            (`mixq.export.runtime.Written.blocks`); it looks at data, which prices do not see.

    Raises:
        ProfileError: if the profile has no such runtime, or cannot be searched with it.
        UsageError: if the chip has not that many cores, or samples have fewer tokens.
    """
    batch = workload(calibration, batch_size, sequence)
    with evaluating(model):
        graph = build_graph(model, lambda: call(model, batch), batch_size=sample_count(batch))
    found = {}
    for name, plan in plans.items():
        formats = _assignment(plan)
        table = build_cost_table(
            graph,
            {unit: [fmt] for unit, fmt in formats.items() if unit in graph.units},
            profile,
            runtime=runtime,
            threads=threads,
            blocks=(blocks or {}).get(name),
        )
        memory = table.peak_memory_bytes(formats) if table.runtime == MEMORY_RUNTIME else None
        found[name] = Predicted(table.latency_s(formats), table.baseline_latency_s, memory)
    return found


def _assignment(plan: Plan) -> dict[str, Format]:
    return {name: layer.format for name, layer in plan.layers.items()}
