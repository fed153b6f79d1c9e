"""Sketch: unbiased where outputs are linear in a unit, close to measured elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mixq.calibration import Calibration
from mixq.errors import ModelError
from mixq.formats import Format
from mixq.graph.find import find_units
from mixq.rounding.rounder import Rounder
from mixq.sensitivity import sketch as sketch_module
from mixq.sensitivity.estimate import Estimate
from mixq.sensitivity.measured import measure
from mixq.sensitivity.metrics.loss import LossIncrease
from mixq.sensitivity.metrics.metric import Metric
from mixq.sensitivity.metrics.resolve import DISTANCES
from mixq.sensitivity.metrics.weighted import Weighted
from mixq.sensitivity.outputs import counted, squared_error
from mixq.sensitivity.reference import Reference
from mixq.sensitivity.sketch import sketch

FORMATS = tuple(map(Format.parse, ("w32", "w8g16", "w4g16-zp", "w2g16-zp")))
WIDTH = 16


def x(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def chain(*between: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), *between, nn.Linear(WIDTH, 3)).eval()


def both(
    model: nn.Module, data: object, *, metric: Metric | None = None, **options: Any
) -> tuple[Mapping[str, Mapping[Format, Estimate]], Mapping[str, Mapping[Format, Estimate]]]:
    units = find_units(model)
    rounder = Rounder(model, {unit.name: unit for unit in units})
    formats = {unit.name: FORMATS for unit in units}
    calibration = Calibration.of(data)
    found = sketch(model, calibration, units, formats, rounder, metric=metric, **options)
    reference = Reference(model, calibration, metric)
    measured = measure(model, calibration, units, formats, reference=reference, rounder=rounder)
    return found, measured.entries


def test_it_is_unbiased_where_the_output_is_linear() -> None:
    """Each unit's change moves the outputs linearly; 400 probes leave an error of 1 in 20."""
    found, measured = both(chain(), x(2, WIDTH), probes=400)
    for unit, row in measured.items():
        for fmt, entry in row.items():
            # The variance of a squared sum of signs is at most twice its square.
            room = 5 * math.sqrt(2 / (2 * 400)) * entry.error
            assert found[unit][fmt].error == pytest.approx(entry.error, abs=room)


@pytest.mark.parametrize("name", DISTANCES)
def test_every_metric_is_met_to_second_order(name: str) -> None:
    """A linear model, 8 bits: what is left of the error beyond second order is below 1%.

    The variance of a squared sum of signs is at most twice its square, for each of 4 samples.
    """
    metric = Weighted(DISTANCES[name]())
    found, measured = both(chain(), x(4, WIDTH), probes=400, metric=metric)
    room = 5 * math.sqrt(2 / (4 * 400)) + 0.01
    for unit, row in measured.items():
        eight = FORMATS[1]
        assert found[unit][eight].error == pytest.approx(row[eight].error, rel=room)


def test_several_outputs_are_met_with_their_weights() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.chain = chain()

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            hidden = self.chain[0](x)
            return hidden, self.chain[1](hidden)

    metric = Weighted(weights={"0": 0.9, "1": 0.1})
    found, measured = both(Both().eval(), x(4, WIDTH), probes=400, metric=metric)
    for unit, row in measured.items():
        for fmt, entry in row.items():
            room = 5 * math.sqrt(2 / (4 * 400)) * entry.error
            assert found[unit][fmt].error == pytest.approx(entry.error, abs=room)


def test_a_loss_is_not_sketched() -> None:
    metric = LossIncrease(lambda y, _: y.sum(1), {"output": 1.0}, "mine")
    with pytest.raises(ModelError, match=r"mine cannot be sketched.*--sensitivity auto"):
        both(chain(), x(2, WIDTH), metric=metric)


def test_small_changes_are_nearly_linear() -> None:
    found, measured = both(chain(nn.Tanh()), x(64, WIDTH), probes=8)
    for unit in measured:
        entry, estimate = measured[unit][FORMATS[1]], found[unit][FORMATS[1]]
        assert abs(estimate.error - entry.error) <= 5 * estimate.error_se
        assert found[unit][FORMATS[0]] == Estimate.of([0.0] * 64)


def test_standard_errors_fall_with_samples_and_cover() -> None:
    model = chain()
    few, _ = both(model, x(16, WIDTH), probes=1)
    many, measured = both(model, x(256, WIDTH), probes=1)
    covered = []
    for unit, row in measured.items():
        for fmt in FORMATS[1:]:
            assert many[unit][fmt].error_se < few[unit][fmt].error_se
            distance = abs(many[unit][fmt].error - row[fmt].error)
            covered.append(distance <= 4 * many[unit][fmt].error_se)
    assert all(covered)


def test_the_same_seed_gives_the_same_and_another_another() -> None:
    model = chain(nn.ReLU())
    first, _ = both(model, x(4, WIDTH))
    again, _ = both(model, [x(4, WIDTH)[:1], x(4, WIDTH)[1:]])  # whatever the batches
    other, _ = both(model, x(4, WIDTH), seed=1)
    assert first == again
    assert first != other


def test_few_gradients_at_once_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = chain(nn.ReLU())
    first, _ = both(model, x(5, WIDTH))
    monkeypatch.setattr(sketch_module, "GRADIENT_BYTES", 1)
    one_by_one, _ = both(model, x(5, WIDTH))
    for unit, row in first.items():
        for fmt, entry in row.items():
            assert one_by_one[unit][fmt].error == pytest.approx(entry.error, rel=1e-5)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(9, WIDTH)
        self.head = nn.Linear(WIDTH, 9, bias=False)
        self.head.weight = self.embed.weight
        self.idle = nn.Linear(WIDTH, WIDTH)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.embed(input_ids)
        logits: Tensor = self.head(hidden)
        return torch.where(attention_mask[..., None] > 0, logits, 1e3 * logits)


def test_ties_count_once_hidden_positions_and_idle_units_not_at_all() -> None:
    tokens = torch.arange(24).reshape(6, 4) % 9
    mask = torch.ones(6, 4, dtype=torch.int64)
    mask[:, 2:] = 0
    found, measured = both(Tied(), {"input_ids": tokens, "attention_mask": mask}, probes=16)
    eight = FORMATS[1]
    entry = measured["embed.weight"][eight]
    assert found["embed.weight"][eight].error == pytest.approx(entry.error, rel=0.5)
    assert {entry.error for entry in found["idle.weight"].values()} == {0.0}


def test_recurrent_and_attention_layers_have_gradients() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.rnn = nn.LSTM(WIDTH, WIDTH, batch_first=True)
            self.encoder = nn.TransformerEncoderLayer(WIDTH, 2, WIDTH, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.encoder(self.rnn(x)[0])
            return out

    found, measured = both(Net().eval(), x(24, 5, WIDTH), probes=2)
    eight = FORMATS[1]
    for unit, row in measured.items():
        assert found[unit][eight].error == pytest.approx(row[eight].error, rel=0.7)


def test_the_model_is_left_as_it_was() -> None:
    model = chain(nn.Dropout(0.5)).train()
    model.get_parameter("0.weight").requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found, _ = both(model, x(4, WIDTH))
    assert found["0.weight"][FORMATS[3]].error > 0
    assert model.training
    assert not model.get_parameter("0.weight").requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_what_has_no_gradient_is_refused() -> None:
    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(WIDTH, 3)

        def forward(self, x: Tensor) -> Tensor:
            signs: Tensor = (self.linear(x) > 0).float()
            return signs

    with pytest.raises(ModelError, match="does not depend on any weight"):
        both(Step(), x(2, WIDTH))


def test_formats_that_do_not_fit_are_left_out() -> None:
    model = chain()
    with torch.no_grad():
        model.get_parameter("0.weight")[0, 0] = 1e9  # its scale is beyond float16
    found, measured = both(model, x(3, WIDTH))
    assert set(found["0.weight"]) == set(measured["0.weight"]) < set(FORMATS)


@pytest.mark.parametrize(
    "shape",
    [(1, 7), (1, 4, 5), (1, 4, 2, 3), (1,), (3, 4, 5), (3, 4, 2, 3), (3,), (5, 2), ()],
    ids=str,
)
def test_shares_are_those_of_the_squared_error(shape: tuple[int, ...]) -> None:
    output, other = x(*shape), x(*shape, seed=2)
    mask = torch.tensor([[1, 1, 0, 1], [1, 0, 0, 0], [1, 1, 1, 1]])
    mask = mask[: shape[0]] if shape[:1] == (1,) else mask
    batch = {"x": torch.zeros(len(mask), 4), "attention_mask": mask}
    expected = squared_error(output, other, batch).mean()
    found = ((output - other).double().square() * counted(output, batch)).sum()
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
