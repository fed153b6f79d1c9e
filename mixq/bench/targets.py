"""Targets: what `mixq bench PLAN|FILE...` names, beside fp32 and uniform plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from torch import nn

from mixq.apply import check_fits
from mixq.bench.candidate import Candidate, Predicted, check_runtime, runtime_of
from mixq.bench.exporting import export_all
from mixq.bench.predicting import MEMORY_RUNTIME, predictions
from mixq.bench.result import BASE, Bench, Settings
from mixq.bench.run import bench
from mixq.bench.uniform import float_plan, uniform_plans
from mixq.bench.workload import workload
from mixq.calibration import Calibration
from mixq.errors import UsageError
from mixq.formats import Format, Method
from mixq.plan import Plan
from mixq.plan_parts import Prediction, UniformInfo
from mixq.profiles import Profile
from mixq.progress import Progress, silent
from mixq.sources import LoadedModel
from mixq.workshop import scratch

UNIFORM: Final = {8: Format(8, 64), 4: Format(4, 64, "zero-point")}
"""Width to the format that uniform plans of a search have in linear layers."""


def bench_targets(
    loaded: LoadedModel,
    calibration: Calibration,
    targets: Sequence[Path],
    settings: Settings,
    *,
    runtime: str = "onnxruntime",
    method: Method = "gptq",
    hardware: Profile | None = None,
    progress: Progress = silent,
) -> Bench:
    """Bench plans and files beside fp32, uniform 8 and uniform 4 bits.

    Args:
        loaded: the model, with its evaluation and folder.
        calibration: inputs.
        targets: plan.json files, and exported files or folders, which are run as they are.
        settings: threads, batch size and rounds.
        runtime: that plans are exported for.
        method: of rounding the uniform plans; `gptq` where the data suffice.
        hardware: what every plan is predicted for, with these settings; None shows what plans say
            of themselves, for the chip and workload that they were searched for.
        progress: is told how far it is.

    Raises:
        UsageError: if there is no target, or one is of no known kind.
        PlanError: if a plan cannot be read, or is for another model.
        ExportError: if nothing runs.
        MissingExtraError: if a runtime is not installed.
        ProfileError: if `hardware` does not describe the runtime.
    """
    plans, files = _named(targets, runtime, loaded.model)
    workload(calibration, settings.batch_size, settings.sequence)  # refused before minutes of work
    formats = {bits: replace(fmt, method=method) for bits, fmt in UNIFORM.items()}
    uniform = uniform_plans(
        loaded.model, calibration, list(formats.values()), name=loaded.name, progress=progress
    )
    exported = {
        BASE: float_plan(loaded.model, loaded.name),
        **{f"uniform {bits}": uniform[fmt] for bits, fmt in formats.items()},
        **plans,
    }
    predicted, conditions = _predicted(plans, runtime), _conditions(plans)
    if hardware is not None:
        hardware.searched_runtime(runtime)  # refused before minutes of work
        conditions = [
            f"predicted for {hardware.name}, {runtime}, {settings.threads} threads, batch "
            f"{settings.batch_size}, with the kernels that the exporter chose"
        ]
    with scratch("mixq-bench") as folder:
        candidates = export_all(
            loaded.model, exported, runtime, folder, calibration,
            tokenizer=loaded.folder, predicted=predicted, progress=progress,
        )  # fmt: skip
        if hardware is not None:
            expected = predictions(
                loaded.model, exported, calibration, hardware, batch_size=settings.batch_size,
                sequence=settings.sequence, runtime=runtime, threads=settings.threads,
                blocks={made.name: made.blocks for made in candidates},
            )  # fmt: skip
            candidates = [replace(made, predicted=expected[made.name]) for made in candidates]
        return bench(
            [*candidates, *files],
            calibration,
            settings,
            model=loaded.name,
            evaluate={} if loaded.evaluate is None else {loaded.name: loaded.evaluate},
            notes=conditions,
            progress=progress,
        )


def check_targets(targets: Sequence[Path], runtime: str) -> None:
    """Refuse early, before a model is loaded, what cannot be benched.

    Raises:
        UsageError: if there is no target, one is there twice, or one is of no known kind; if
            there is no such runtime.
        PlanError: if a plan cannot be read.
    """
    check_runtime(runtime)
    if not targets:
        raise UsageError(
            "there is nothing to bench; pass a plan.json or an exported file, or --suite FILE.toml"
        )
    if len(set(targets)) < len(targets):
        raise UsageError("a file is named twice; name each once")
    for path in targets:
        if is_plan(path):
            Plan.load(path)
        else:
            runtime_of(path, runtime)


def is_plan(path: Path) -> bool:
    """Whether a target is a plan, by its name; else it is an exported file."""
    return path.suffix == ".json"


def _named(
    targets: Sequence[Path], runtime: str, model: nn.Module
) -> tuple[dict[str, Plan], list[Candidate]]:
    """Plans by the names of their rows, and files as candidates."""
    check_targets(targets, runtime)
    ours = [path for path in targets if is_plan(path)]
    plans = {"plan" if len(ours) == 1 else str(path): Plan.load(path) for path in ours}
    for plan in plans.values():
        check_fits(plan, model)
    files = [Candidate.of_file(path, runtime, str(path)) for path in targets if path not in ours]
    return plans, files


def _predicted(plans: dict[str, Plan], runtime: str) -> dict[str, Predicted]:
    """What each plan says of itself, and the first one of 32 bits and of uniform widths."""
    found: dict[str, Predicted] = {}
    for name, plan in plans.items():
        base = plan.predicted.baseline_latency_s

        def said(cost: Prediction | UniformInfo, base: float = base) -> Predicted:
            return Predicted(cost.latency_s, base)

        memory = plan.predicted.peak_memory_bytes if runtime == MEMORY_RUNTIME else 0
        found[name] = replace(said(plan.predicted), peak_memory_bytes=memory or None)
        found.setdefault(BASE, Predicted(base, base))
        for width, info in plan.uniform.items():
            found.setdefault(f"uniform {width}", said(info))
    return found


def _conditions(plans: dict[str, Plan]) -> list[str]:
    """What predictions are for, a sentence for each plan."""
    return [
        f"{name}: predicted for {plan.hardware.name}, {plan.hardware.runtime}, "
        f"{plan.hardware.threads} threads, batch {plan.workload.batch_size}"
        for name, plan in plans.items()
    ]
