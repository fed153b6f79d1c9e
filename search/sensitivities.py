"""Sensitivities: how a search comes to know what each format of each unit costs in error."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mixq.calibration import Calibration
from mixq.formats import Format
from mixq.profiles import Profile
from mixq.progress import Progress, silent
from mixq.rounding.rounder import Rounder
from mixq.search.analysis import Layout, lay_out, round_units
from mixq.search.budget import Budget
from mixq.search.equalize import prepared
from mixq.search.palette import Palette
from mixq.search.race.race import race
from mixq.search.request import Equalize, Sensitivity, check_sketchable
from mixq.search.weight_picture import leave_histogram
from mixq.sensitivity.device import check_device, moved
from mixq.sensitivity.estimate import Estimate
from mixq.sensitivity.measured import measure
from mixq.sensitivity.metrics.choice import AUTO, Loss, MetricChoice, Outputs
from mixq.sensitivity.metrics.resolve import resolve
from mixq.sensitivity.reference import Reference
from mixq.sensitivity.setting import Setting
from mixq.sensitivity.sketch import sketch
from mixq.sensitivity.table import SensitivityTable

if TYPE_CHECKING:
    from torch import nn


def find_sensitivity(
    mode: Sensitivity,
    layout: Layout,
    rounder: Rounder,
    calibration: Calibration,
    budget: Budget | None = None,
    setting: Setting | None = None,
) -> SensitivityTable:
    """The sensitivity of every unit of a layout, going on from what `folder` already holds.

    Args:
        mode: `measured` on every sample; `sketch`, estimated from gradients; `auto`, measured on
            as many samples as the plan needs, or on all where the metric is a loss.
        layout: units, formats and prices.
        rounder: what the formats make of the weights.
        calibration: what is measured on.
        budget: what is demanded of the plan, which `auto` looks at.
        setting: how the model is measured.

    Raises:
        MixqError: as `measure` and `sketch`.
    """
    setting = setting or Setting()
    # What may fall has no relative spread to draw by.
    if mode == "auto" and not setting.metric.is_signed:
        return race(layout, rounder, calibration, budget, setting)
    if mode == "sketch":
        return _sketched(layout, rounder, calibration, setting)
    return _measured(layout, rounder, calibration, setting)


def mode_of(mode: Sensitivity, samples: int | None) -> Sensitivity:
    """The mode where so many samples are asked for: all of those are measured on."""
    return "measured" if mode == "auto" and samples is not None else mode


def _measured(
    layout: Layout, rounder: Rounder, calibration: Calibration, setting: Setting
) -> SensitivityTable:
    model = moved(rounder.model, setting.device)
    return measure(
        model, calibration, rounder.units.values(), layout.formats,
        reference=Reference(model, calibration, setting.metric), rounder=rounder,
        store=setting.store(layout.model_fingerprint, calibration, rounder),
        workers=setting.workers, progress=setting.progress,
    )  # fmt: skip


def _sketched(
    layout: Layout, rounder: Rounder, calibration: Calibration, setting: Setting
) -> SensitivityTable:
    """Estimates, and measurements where there is nothing to differentiate: rounded activations."""
    units = rounder.units.values()
    measured = {
        unit: tuple(fmt for fmt in choices if fmt.activation != "none" or fmt.bits == 32)
        for unit, choices in layout.formats.items()
    }
    table = _measured(replace(layout, formats=measured), rounder, calibration, setting)
    found = sketch(
        moved(rounder.model, setting.device), calibration, units, layout.formats, rounder,
        metric=setting.metric, progress=setting.progress,
    )  # fmt: skip
    entries: dict[str, dict[Format, Estimate]] = {}
    for unit, choices in layout.formats.items():
        known = {**found[unit], **table.entries[unit]}
        entries[unit] = {fmt: known[fmt] for fmt in choices if fmt in known}
    return replace(table, entries=entries, mode="sketch")


def analyze(
    model: nn.Module,
    calibration: Calibration,
    profile: Profile,
    *,
    palette: Palette,
    samples: int | None = None,
    batch_size: int = 1,
    threads: int | None = None,
    equalize: Equalize = "none",
    sensitivity: Sensitivity = "auto",
    workers: int = 1,
    device: str = "cpu",
    metric: str | Loss = AUTO,
    outputs: Outputs = None,
    folder: Path | None = None,
    progress: Progress = silent,
) -> tuple[Layout, SensitivityTable]:
    """Layout and sensitivities alone, on the samples that a search would measure on.

    Args are those of `mixq.search`.

    Raises:
        MixqError: as `lay_out`, `resolve` and `find_sensitivity`.
    """
    check_device(device, workers)
    choice = MetricChoice(metric, outputs)
    check_sketchable(sensitivity, choice)
    tuning, _ = calibration.split()
    model = prepared(model, tuning, equalize).model
    layout = lay_out(
        model, tuning, profile, palette=palette, pins={}, ties=(), batch_size=batch_size,
        threads=threads,
    )  # fmt: skip
    compared = resolve(choice, model, tuning)
    layout, rounding = round_units(
        model, layout, tuning, profile, folder=folder, progress=progress
    )
    measured = rounding.unseen if samples is None else rounding.unseen.take(samples)
    setting = Setting(compared, folder, workers, device, progress)
    table = find_sensitivity(
        mode_of(sensitivity, samples), layout, rounding.rounder, measured, setting=setting
    )
    leave_histogram(folder, model, layout.graph.units, table)
    return layout, table
