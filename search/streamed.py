"""Streamed: layout and sensitivities of a model that is never whole in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mixq.batch import call, sample_count
from mixq.calibration import Calibration, repeat_sample
from mixq.errors import UsageError
from mixq.formats import Format
from mixq.profiles import Profile
from mixq.progress import Progress, silent, track
from mixq.quantize.methods import method_of
from mixq.search.analysis import Layout, layout_of
from mixq.search.dominance import pruned
from mixq.search.palette import Palette
from mixq.search.request import Equalize, Sensitivity, check_sketchable
from mixq.sensitivity.estimate import Estimate
from mixq.sensitivity.metrics.choice import AUTO, Loss, MetricChoice, Outputs
from mixq.sensitivity.metrics.metric import Metric
from mixq.sensitivity.metrics.resolve import resolve_for
from mixq.sensitivity.store import Store
from mixq.sensitivity.table import SensitivityTable
from mixq.streaming.measured import measure_streamed
from mixq.streaming.model import StreamedModel
from mixq.streaming.sketch import sketch_streamed

STAGE = "rounding weights"


def check_streamed(
    palette: Palette, equalize: Equalize, workers: int = 1, device: str = "cpu"
) -> Palette:
    """The palette as streaming takes it: `auto` is rounding to nearest.

    Raises:
        UsageError: if a rounding method, activations or rewriting need data or the whole model.
    """
    if equalize != "none":
        raise UsageError(
            f"--equalize {equalize} rewrites the whole model, which --stream never has in memory; "
            "leave one of them out"
        )
    if workers > 1 or device != "cpu":
        raise UsageError(
            f"--stream runs in one process on the processor, but --workers is {workers} and "
            f"--device {device}; leave them out, or --stream"
        )
    is_auto = palette.method == "auto"
    if not is_auto and method_of(Format(4, method=palette.method)).needs != "nothing":
        raise UsageError(
            f"--method {palette.method} rounds for the inputs of layers, which --stream does not "
            "collect; choose rtn, squant or hqq"
        )
    if "static" in palette.activations:
        raise UsageError(
            "--activations static needs the ranges of inputs, which --stream does not collect; "
            "choose none or dynamic"
        )
    return replace(palette, method="rtn") if palette.method == "auto" else palette


def analyze(
    streamed: StreamedModel,
    calibration: Calibration,
    profile: Profile,
    *,
    palette: Palette,
    samples: int | None = None,
    batch_size: int = 1,
    threads: int | None = None,
    sensitivity: Sensitivity = "auto",
    metric: str | Loss = AUTO,
    outputs: Outputs = None,
    folder: Path | None = None,
    progress: Progress = silent,
) -> tuple[Layout, SensitivityTable]:
    """As `mixq.search.sensitivities.analyze`, of a model whose weights lie on disk.

    `auto` is the sketch. Activations that find no room in memory go to a file in `folder`.

    Raises:
        MixqError: as `check_streamed`, `layout_of`, `sketch_streamed` and `measure_streamed`.
    """
    palette = check_streamed(palette, "none")
    choice = MetricChoice(metric, outputs)
    # `auto` is the sketch, which a loss does not have.
    check_sketchable("sketch" if sensitivity == "auto" else sensitivity, choice)
    tuning, _ = calibration.split()
    layout, compared = _lay_out(
        streamed, tuning, profile, choice, palette=palette, batch_size=batch_size,
        threads=threads, progress=progress,
    )  # fmt: skip
    measured = tuning if samples is None else tuning.take(samples)
    store = Store(
        folder, layout.model_fingerprint, measured.fingerprint, "", compared.fingerprint,
        signed=compared.is_signed,
    )  # fmt: skip
    if sensitivity == "measured":
        table = measure_streamed(
            streamed, measured, layout.formats, metric=compared, store=store, spill=folder,
            progress=progress,
        )  # fmt: skip
        return layout, table
    # As for whole models: rounded activations have no gradient and are measured.
    known = {
        unit: tuple(fmt for fmt in choices if fmt.activation != "none" or fmt.bits == 32)
        for unit, choices in layout.formats.items()
    }
    table = measure_streamed(
        streamed, measured, known, metric=compared, store=store, spill=folder, progress=progress
    )
    found = sketch_streamed(
        streamed, measured, layout.formats, metric=compared, spill=folder, progress=progress
    )
    entries: dict[str, dict[Format, Estimate]] = {}
    for unit, choices in layout.formats.items():
        row = {**found[unit], **table.entries[unit]}
        entries[unit] = {fmt: row[fmt] for fmt in choices if fmt in row}
    return layout, replace(table, entries=entries, mode="sketch")


def _lay_out(
    streamed: StreamedModel,
    calibration: Calibration,
    profile: Profile,
    choice: MetricChoice,
    *,
    palette: Palette,
    batch_size: int,
    threads: int | None,
    progress: Progress,
) -> tuple[Layout, Metric]:
    batch = repeat_sample(calibration, batch_size)
    outputs: list[object] = []
    graph = streamed.graph(
        lambda: outputs.append(call(streamed.model, batch)), batch_size=sample_count(batch)
    )
    layout = layout_of(
        streamed.model, graph, batch, streamed.fingerprint(progress), profile, palette=palette,
        pins={}, ties=(), threads=threads,
    )  # fmt: skip
    metric = resolve_for(choice, streamed.model, outputs[-1])
    return replace(layout, formats=_pruned(streamed, layout, progress)), metric


def _pruned(
    streamed: StreamedModel, layout: Layout, progress: Progress
) -> Mapping[str, tuple[Format, ...]]:
    formats = dict(layout.formats)
    for part in track(streamed.parts, STAGE, len(streamed.parts), progress):
        with streamed.in_memory(part):
            rounder = streamed.rounder(part)
            for unit in streamed.units_in(part):
                formats[unit] = pruned(unit, layout.formats[unit], layout.costs, rounder)
    return formats
