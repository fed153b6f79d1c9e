"""The example models: every layer's weights have moments, in little time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mixq.graph.find import find_units
from mixq.moments.collect import collect

from ..example_models import NAMES, load

ONLY_LOOKED_UP = {
    "minilm": {f"embeddings.{n}_embeddings.weight" for n in ("word", "position", "token_type")},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_layer_has_moments(name: str) -> None:
    model, calibration, _ = load(name)
    assert isinstance(model, nn.Module)
    units = find_units(model)
    found = collect(model, calibration.take(2), units, most_columns=2048)
    assert {unit.name for unit in units} - set(found) == ONLY_LOOKED_UP.get(name, set())
    for unit in units:
        if unit.name in found:
            moments = found[unit.name]
            assert moments.columns == unit.columns
            assert unit.rows % moments.groups == 0
            assert moments.count > 0
            assert (moments.second is None) == (unit.columns > 2048)
            # The mean square is at least the square of the mean.
            slack = moments.count * 2.0**-22
            least = (1 - slack) * moments.mean.square()
            assert bool((moments.diagonal >= least - torch.finfo(torch.float32).tiny).all())
