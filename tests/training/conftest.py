"""Plans for any model, without a search."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from mixq.formats import Format
from mixq.graph.find import find_units
from mixq.graph.state import fingerprint
from mixq.plan import Layer, Plan

GOLDEN = Path(__file__).parents[1] / "data" / "plan-v1.json"


@pytest.fixture
def plan_for() -> Callable[..., Plan]:
    """A function that gives the model's units these formats, by name, in turn."""

    def make(model: nn.Module, *names: str) -> Plan:
        template = Plan.load(GOLDEN)
        layers = {}
        for index, unit in enumerate(find_units(model)):
            fmt = Format.parse(names[index % len(names)])
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
        info = template.model.model_copy(update={"fingerprint": fingerprint(model)})
        return template.model_copy(update={"model": info, "layers": layers})

    return make
