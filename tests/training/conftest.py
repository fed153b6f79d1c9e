"""Plans for any model, in formats by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

from mixq.formats import Format
from mixq.plan import Plan

from .. import plans


@pytest.fixture
def plan_for() -> Callable[..., Plan]:
    """A function that gives the model's units these formats, by name, in turn."""

    def make(model: nn.Module, *names: str) -> Plan:
        return plans.plan_for(model, *map(Format.parse, names))

    return make
