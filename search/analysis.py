"""Analysis: the tables that a search stands on, made from a model, its inputs and a chip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mixq.batch import call, named_tensors, sample_count
from mixq.calibration import Calibration, repeat_sample
from mixq.cost.build import build_cost_table
from mixq.cost.table import CostTable
from mixq.formats import Format
from mixq.graph.build import build_graph
from mixq.graph.model_graph import ModelGraph
from mixq.graph.state import fingerprint
from mixq.profiles import Profile
from mixq.progress import Progress, silent
from mixq.search.candidates import default_formats, resolve_pins, resolve_ties
from mixq.search.problem import Choice, Problem
from mixq.sensitivity.measured import measure
from mixq.sensitivity.reference import Reference, evaluating
from mixq.sensitivity.store import Store
from mixq.sensitivity.table import SensitivityTable

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Layout:
    """What is known before anything is measured.

    Attributes:
        graph: the traced model.
        formats: candidate formats by unit.
        pins: unit name to width.
        ties: groups of units that take one format.
        costs: prices of every (unit, format).
        model_fingerprint: of the model's weights.
        shapes: shapes of the inputs of the workload.
    """

    graph: ModelGraph
    formats: Mapping[str, tuple[Format, ...]]
    pins: Mapping[str, int]
    ties: Sequence[Sequence[str]]
    costs: CostTable
    model_fingerprint: str
    shapes: Mapping[str, list[int]]

    def problem(self, sensitivity: SensitivityTable | None = None) -> Problem:
        """The allocation problem; with errors of zero while nothing is measured."""
        rows: dict[str, tuple[Choice, ...]] = {}
        for unit, formats in self.formats.items():
            choices = []
            for fmt in formats:
                cost = self.costs.cost(unit, fmt)
                error = 0.0
                if sensitivity is not None:
                    entry = sensitivity.entries[unit].get(fmt)
                    if entry is None:  # the unit's weights do not fit this format
                        continue
                    error = entry.error
                choices.append(Choice(fmt, error, cost.weight_bytes, cost.latency_s))
            rows[unit] = tuple(choices)
        return Problem(
            rows,
            original_bytes=self.graph.original_bytes,
            other_bytes=self.costs.other_bytes,
            other_latency_s=self.costs.other_latency_s,
            constant_memory_bytes=self.costs.peak_activation_bytes + self.costs.runtime_bytes,
        ).tied(self.ties)


def lay_out(
    model: nn.Module,
    calibration: Calibration,
    profile: Profile,
    *,
    bits: Sequence[int],
    pins: Mapping[str, int],
    ties: Sequence[str],
    batch_size: int,
    threads: int | None,
) -> Layout:
    """Trace the model on a batch of the workload and price every candidate format.

    Raises:
        MixqError: if the model has no units, the batch does not fit, or a pattern or width is
            unknown.
    """
    batch = repeat_sample(calibration, batch_size)
    with evaluating(model):
        call(model, batch)  # a batch that does not fit is refused here, in torch's words
        graph = build_graph(model, lambda: call(model, batch), batch_size=sample_count(batch))
    resolved = resolve_pins(graph.units, pins)
    formats = default_formats(graph.units, bits, resolved)
    return Layout(
        graph=graph,
        formats=formats,
        pins=resolved,
        ties=resolve_ties(graph.units, ties),
        costs=build_cost_table(graph, formats, profile, threads=threads),
        model_fingerprint=fingerprint(model),
        shapes={name: list(tensor.shape) for name, tensor in named_tensors(batch)},
    )


def measure_sensitivity(
    model: nn.Module,
    layout: Layout,
    calibration: Calibration,
    reference: Reference,
    *,
    folder: Path | None = None,
    progress: Progress = silent,
) -> SensitivityTable:
    """The sensitivity of every unit of a layout, going on from what `folder` already holds."""
    store = Store(folder, layout.model_fingerprint, calibration.fingerprint)
    return measure(
        model,
        calibration,
        layout.graph.units.values(),
        layout.formats,
        reference=reference,
        store=store,
        progress=progress,
    )


def analyze(
    model: nn.Module,
    calibration: Calibration,
    profile: Profile,
    *,
    bits: Sequence[int],
    batch_size: int = 1,
    threads: int | None = None,
    folder: Path | None = None,
    progress: Progress = silent,
) -> tuple[Layout, SensitivityTable]:
    """Layout and sensitivities alone, on the samples that a search would measure on.

    Raises:
        MixqError: as `lay_out` and `measure_sensitivity`.
    """
    tuning, _ = calibration.split()
    layout = lay_out(
        model, tuning, profile, bits=bits, pins={}, ties=(), batch_size=batch_size,
        threads=threads,
    )  # fmt: skip
    reference = Reference(model, tuning)
    table = measure_sensitivity(model, layout, tuning, reference, folder=folder, progress=progress)
    return layout, table
