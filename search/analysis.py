"""Analysis: the tables that a search stands on, made from a model, its inputs and a chip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mixq.activations.inputs import quantizable_inputs
from mixq.batch import Batch, call, named_tensors, sample_count
from mixq.calibration import Calibration, repeat_sample
from mixq.cost.build import build_cost_table, reads
from mixq.cost.table import CostTable
from mixq.formats import Format
from mixq.graph.build import build_graph
from mixq.graph.model_graph import ModelGraph
from mixq.graph.state import fingerprint
from mixq.graph.units import WeightUnit
from mixq.profiles import Profile
from mixq.progress import Progress, silent
from mixq.rounding.prepare import Prepared, prepare_rounding
from mixq.search.candidates import candidate_formats, resolve_pins, resolve_ties
from mixq.search.choice import Choice
from mixq.search.dominance import pruned
from mixq.search.palette import Palette
from mixq.search.problem import Problem
from mixq.sensitivity.reference import evaluating
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
        threads: that were asked for.
        shapes: shapes of the inputs of the workload.
    """

    graph: ModelGraph
    formats: Mapping[str, tuple[Format, ...]]
    pins: Mapping[str, int]
    ties: Sequence[Sequence[str]]
    costs: CostTable
    model_fingerprint: str
    threads: int | None
    shapes: Mapping[str, list[int]]

    def of(self, original_bytes: int, parameters: int) -> Layout:
        """The same, with compression counted from a model of so many bytes and parameters."""
        graph = replace(self.graph, original_bytes=original_bytes, parameters=parameters)
        return replace(self, graph=graph)

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
                memory_bytes = self.costs.memory_bytes(unit, fmt)
                choices.append(Choice(fmt, error, cost.weight_bytes, cost.latency_s, memory_bytes))
            rows[unit] = tuple(choices)
        return Problem(
            rows,
            original_bytes=self.graph.original_bytes,
            other_bytes=self.costs.other_bytes,
            other_latency_s=self.costs.other_latency_s,
            constant_memory_bytes=self.costs.constant_memory_bytes - self.costs.other_bytes,
        ).tied(self.ties)


def lay_out(
    model: nn.Module,
    calibration: Calibration,
    profile: Profile,
    *,
    palette: Palette,
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
    return layout_of(
        model, graph, batch, fingerprint(model), profile, palette=palette, pins=pins, ties=ties,
        threads=threads,
    )  # fmt: skip


def layout_of(
    model: nn.Module,
    graph: ModelGraph,
    batch: Batch,
    model_fingerprint: str,
    profile: Profile,
    *,
    palette: Palette,
    pins: Mapping[str, int],
    ties: Sequence[str],
    threads: int | None,
) -> Layout:
    """As `lay_out`, of a model that was traced on `batch`; its weights are not looked at."""
    resolved = resolve_pins(graph.units, pins)
    has_kernel = reads(profile, threads=threads)
    entered = quantizable_inputs(model, graph.units.values())

    def deployable(unit: WeightUnit, fmt: Format) -> bool:
        return (fmt.activation == "none" or unit.name in entered) and has_kernel(unit, fmt)

    formats = candidate_formats(graph.units, palette, resolved, deployable)
    return Layout(
        graph=graph,
        formats=formats,
        pins=resolved,
        ties=resolve_ties(graph.units, ties),
        costs=build_cost_table(graph, formats, profile, threads=threads),
        model_fingerprint=model_fingerprint,
        threads=threads,
        shapes={name: list(tensor.shape) for name, tensor in named_tensors(batch)},
    )


def round_units(
    model: nn.Module,
    layout: Layout,
    calibration: Calibration,
    profile: Profile,
    *,
    folder: Path | None = None,
    progress: Progress = silent,
) -> tuple[Layout, Prepared]:
    """Round every unit in every candidate format, on calibration data where a method sees them.

    Where data are too few for a method, the layout that comes back has another in its place; where
    a candidate is beaten on bytes, time and layer error by another, it is left out.
    """
    ties = layout.problem().ties
    rounding = prepare_rounding(
        model, layout.graph.units, layout.formats, calibration, ties=ties, folder=folder,
        progress=progress,
    )  # fmt: skip
    guarded = dict(rounding.formats)
    costs = build_cost_table(layout.graph, guarded, profile, threads=layout.threads)
    for tie in ties:  # a tie takes a format that all of its units may take
        common = tuple(fmt for fmt in guarded[tie[0]] if all(fmt in guarded[u] for u in tie))
        guarded |= dict.fromkeys(tie, common)
    unseen = rounding.unseen_moments
    formats = {
        unit: pruned(unit, choices, costs, rounding.rounder, unseen.get(unit))
        for unit, choices in guarded.items()
    }
    for tie in ties:
        # What is beaten in one unit may still be the best for all of them together.
        worth = {fmt for unit in tie for fmt in formats[unit]}
        formats |= dict.fromkeys(tie, tuple(fmt for fmt in guarded[tie[0]] if fmt in worth))
    return replace(layout, formats=formats, costs=costs), rounding


def exact_costs(layout: Layout, assignment: Mapping[str, Format], profile: Profile) -> CostTable:
    """Prices of one plan whose activations stay floats wherever its weights alone are rounded."""
    alone = {unit: fmt for unit, fmt in assignment.items() if fmt.activation == "none"}
    return build_cost_table(
        layout.graph,
        {unit: [fmt] for unit, fmt in assignment.items()},
        profile,
        threads=layout.threads,
        blocks=dict.fromkeys(alone, 0),
    )
