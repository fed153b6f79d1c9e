"""Plans for any model, without a search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from mixq.activations.ranges import collect_ranges
from mixq.bench.uniform import bare_plan
from mixq.calibration import Calibration
from mixq.formats import Format
from mixq.graph.find import find_units
from mixq.moments.collect import collect
from mixq.plan import Plan
from mixq.rounding.rounder import Rounder


def plan_in_turn(model: nn.Module, calibration: Calibration, formats: Sequence[Format]) -> Plan:
    """A plan that gives a model's units these formats in turn, rounded as a search would.

    Args:
        model: in eval mode.
        calibration: for formats that see data.
        formats: one or more.
    """
    units = {unit.name: unit for unit in find_units(model)}
    assignment = {name: formats[i % len(formats)] for i, name in enumerate(units)}
    found = collect_ranges(model, calibration, list(units.values()))
    for name, fmt in assignment.items():
        if name not in found:  # a lookup, whose inputs are no floats
            assignment[name] = replace(fmt, activation="none")
    plan = bare_plan(model, "model", units, assignment, ())
    if not any(fmt.needs_codes for fmt in assignment.values()):
        return plan
    moments = collect(model, calibration, list(units.values()))
    ranges = {name: own.tensors() for name, own in found.items()}
    weights = Rounder(model, units, moments, ranges).plan_weights(assignment)
    return plan if weights is None else plan.with_weights(weights)
