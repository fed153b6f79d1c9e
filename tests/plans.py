"""Plans for any model, without a search."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from mixq.activations.ranges import collect_ranges
from mixq.calibration import Calibration
from mixq.formats import Format
from mixq.graph.find import find_units
from mixq.graph.state import fingerprint, stored_tensors
from mixq.moments.collect import collect
from mixq.plan import Plan
from mixq.plan_parts import Layer
from mixq.rounding.rounder import Rounder

GOLDEN = Path(__file__).parent / "data" / "plan-v1.json"


def plan_for(model: nn.Module, *formats: Format) -> Plan:
    """A plan that gives the model's units these formats in turn, with the bytes of everything."""
    template = Plan.load(GOLDEN)
    sizes = {item.names[0]: item.stored_bytes for item in stored_tensors(model)}
    layers = {}
    for index, unit in enumerate(find_units(model)):
        fmt = formats[index % len(formats)]
        layers[unit.name] = Layer(
            bits=fmt.bits,
            group_size=fmt.group_size,
            grid=fmt.grid,
            method=fmt.method,
            activation=fmt.activation,
            weight_bytes=unit.stored_bytes(fmt),
            latency_s=0.0,
            error=0.0,
            error_se=0.0,
            shape=list(unit.shape),
            matrix=(unit.rows, unit.columns),
            aliases=list(unit.aliases),
        )
        sizes[unit.name] = layers[unit.name].weight_bytes
    predicted = template.predicted.model_copy(update={"weight_bytes": sum(sizes.values())})
    info = template.model.model_copy(update={"fingerprint": fingerprint(model)})
    return template.model_copy(update={"model": info, "layers": layers, "predicted": predicted})


def calibrated_plan_for(model: nn.Module, calibration: Calibration, *formats: Format) -> Plan:
    """The same with codes and ranges of activations made on calibration data, as a search does."""
    plan = plan_for(model, *formats)
    units = {unit.name: unit for unit in find_units(model)}
    ranges = collect_ranges(model, calibration, units.values())
    moments = collect(model, calibration, units.values())
    tensors = {name: found.tensors() for name, found in ranges.items()}
    weights = Rounder(model, units, moments, tensors).plan_weights(
        {name: layer.format for name, layer in plan.layers.items()}
    )
    return plan if weights is None else plan.with_weights(weights)
