"""How the model is run: with replaced weights, no longer than needed, and left as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from mixq.calibration import Calibration
from mixq.graph.build import build_graph
from mixq.graph.find import find_units
from mixq.moments.collect import collect

from .helpers import Tied, check_near, moments_of, normal


class TestReplaced:
    def test_later_inputs_change(self) -> None:
        first = nn.Linear(6, 5)
        model = nn.Sequential(first, nn.Linear(5, 4))
        x, other = normal(7, 6), normal(5, 6, seed=3)
        found = collect(model, Calibration.of(x), find_units(model), replaced={"0.weight": other})
        check_near(found["0.weight"], x)
        check_near(found["1.weight"], x @ other.t() + first.bias.detach())

    def test_tied_and_recurrent_weights_are_put_back(self) -> None:
        layer = nn.LSTM(6, 8)
        x = normal(5, 3, 6)
        before = layer(x)[0]
        replaced = {"weight_hh_l0": torch.zeros(32, 8)}
        found = collect(layer, Calibration.of(x), find_units(layer), replaced=replaced)
        assert found["weight_hh_l0"].count == 15
        assert layer._flat_weights[1] is layer.weight_hh_l0
        assert torch.equal(layer(x)[0], before)

    def test_tied_table(self) -> None:
        model, other = Tied(), normal(11, 6, seed=5)
        ids = torch.arange(10).reshape(2, 5)
        replaced = {"table.weight": other, "head.weight": other}
        found = collect(model, Calibration.of(ids), find_units(model), replaced=replaced)
        check_near(found["table.weight"], other[:10].sin())

    def test_module_used_twice(self) -> None:
        layer, other = nn.Linear(6, 6, bias=False), normal(6, 6, seed=5)
        original = layer.weight
        model = nn.Sequential(layer, layer)
        x = normal(4, 6)
        replaced = {"0.weight": other, "1.weight": other}
        found = collect(model, Calibration.of(x), find_units(model), replaced=replaced)
        check_near(found["0.weight"], torch.cat([x, x @ other.t()]))
        assert layer.weight is original


class TestModelIsLeftAlone:
    def test_mode_fast_path_and_progress(self) -> None:
        model = nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5), nn.Linear(5, 4)).train()
        model[0].eval()
        seen: list[tuple[str, int, int]] = []
        x = normal(4, 6)
        moments_of(model, [x, x], progress=lambda *call: seen.append(call))
        assert [module.training for module in model] == [False, True, True]
        assert torch.backends.mha.get_fastpath_enabled()
        assert seen == [("gathering input moments", done, 2) for done in range(3)]

    def test_same_again(self) -> None:
        model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(96, 5))
        first, again = (moments_of(model, normal(3, 4, 6, 6)) for _ in range(2))
        for name, moments in first.items():
            assert moments.second is not None
            assert again[name].second is not None
            assert torch.equal(moments.second, again[name].second)  # type: ignore[arg-type]


class Counted(nn.Module):
    """Counts how often it is run."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return x


class TestEarlyEnd:
    def test_ends_each_batch_when_all_units_are_met(self) -> None:
        counter = Counted()
        model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), counter)
        batches = [normal(3, 6), normal(4, 6, seed=1)]
        units = build_graph(model, lambda: model(batches[0])).units
        full = moments_of(model, batches)
        counter.runs = 0
        calibration = Calibration.of(batches)
        found = collect(model, calibration, [units["0.weight"]])
        assert counter.runs == 0
        assert list(found) == ["0.weight"]
        assert torch.equal(found["0.weight"].mean, full["0.weight"].mean)
        assert found["0.weight"].count == 7
        collect(model, calibration, list(units.values()))
        assert counter.runs == 0  # both are met before it
        collect(model, calibration, [replace(units["0.weight"], work=())])
        assert counter.runs == 2

    def test_not_before_the_last_use(self) -> None:
        layer = nn.Linear(6, 6)
        model = nn.Sequential(layer, nn.Tanh(), layer)
        x = normal(5, 6)
        units = build_graph(model, lambda: model(x)).units
        assert collect(model, Calibration.of(x), list(units.values()))["0.weight"].count == 10

    def test_through_script(self) -> None:
        with pytest.warns(DeprecationWarning, match="torch.jit"):
            inner = torch.jit.script(nn.Linear(6, 5))
        model = nn.Sequential(inner, nn.Linear(5, 4))
        x = normal(5, 6)
        units = build_graph(model, lambda: model(x)).units
        check_near(collect(model, Calibration.of(x), [units["0.weight"]])["0.weight"], x)

    def test_tied_table_waits_for_the_head(self) -> None:
        model = Tied()
        ids = torch.arange(10).reshape(2, 5)
        units = build_graph(model, lambda: model(ids)).units
        assert (
            collect(model, Calibration.of(ids), list(units.values()))["table.weight"].count == 10
        )
