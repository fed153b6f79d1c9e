"""Uniform plans: one format everywhere, and the plan that changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from mixq import demo
from mixq.bench.uniform import FLOAT, float_plan, uniform_plan, uniform_plans
from mixq.calibration import Calibration
from mixq.export.source import Source
from mixq.formats import Format
from mixq.graph.state import stored_tensors
from mixq.plan import Plan
from mixq.plan_check import check_plan
from mixq.quantize.weights import pack_weight


class Words(nn.Module):
    """A table that nothing enters, a recurrent layer, and a linear one."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 32)
        self.memory = nn.GRU(32, 24, batch_first=True)
        self.head = nn.Linear(24, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden: Tensor = self.memory(self.table(tokens))[0]
        out: Tensor = self.head(hidden[:, -1])
        return out


@pytest.fixture(scope="module")
def words() -> Words:
    torch.manual_seed(0)
    return Words().eval()


@pytest.fixture(scope="module")
def tokens() -> Calibration:
    generator = torch.Generator().manual_seed(1)
    return Calibration.of(torch.randint(0, 50, (64, 12), generator=generator))


FORMATS = {
    name: Format.parse(name)
    for name in ("w8g64", "w8g64-gptq", "w4g64-zp", "w4g64-zp-gptq", "w2g32-affine-clip", "w16")
}
ROUNDED_INPUTS = ("w8a8-reduced-dynamic", "w8a8-reduced-gptq-static")


def test_the_float_plan_changes_nothing() -> None:
    model, calibration, _ = demo.load()
    plan = float_plan(model, "demo")
    assert set(plan.assignment.values()) == {FLOAT}
    assert plan.predicted.weight_bytes == plan.model.original_bytes
    source = Source.of(model, plan, calibration)
    assert source.units == {}
    with torch.no_grad():
        for batch in calibration.batches:
            expected = model(batch)
            assert torch.equal(source.applied(batch), expected)
            assert torch.equal(source.restored(batch), expected)


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=FORMATS)
def test_every_unit_has_the_format_and_its_exact_bytes(
    words: Words, tokens: Calibration, fmt: Format
) -> None:
    plan = uniform_plan(words, tokens, fmt)
    assert {replace(own, method="rtn") for own in plan.assignment.values()} == {
        replace(fmt, method="rtn")
    }
    check_plan(plan)
    stored = sum(item.stored_bytes for item in stored_tensors(plan.apply(words)))
    assert stored == plan.predicted.weight_bytes
    assert plan.notes == []


@pytest.mark.parametrize("name", ROUNDED_INPUTS)
def test_a_unit_that_cannot_take_the_format_gets_the_nearest_and_the_plan_says_so(
    words: Words, tokens: Calibration, name: str
) -> None:
    fmt = Format.parse(name)
    plan = uniform_plan(words, tokens, fmt)
    assert plan.layers["head.weight"].activation == fmt.activation
    others = {unit: own for unit, own in plan.assignment.items() if unit != "head.weight"}
    assert {own.activation for own in others.values()} == {"none"}
    assert {(own.bits, own.group_size, own.grid) for own in others.values()} == {
        (fmt.bits, fmt.group_size, fmt.grid)
    }
    assert any(f"cannot take {name}" in note and "table.weight" in note for note in plan.notes)
    assert not any("head.weight" in note for note in plan.notes)
    plan.apply(words)


def test_the_codes_are_those_of_the_rounding_method(words: Words, tokens: Calibration) -> None:
    fmt = Format.parse("w4g64-zp")
    plan = uniform_plan(words, tokens, fmt)
    units = Source.of(words, plan, tokens).units
    for name, unit in units.items():
        weight = words.get_parameter(name)
        rows, columns = plan.layers[name].matrix
        expected = pack_weight(weight, fmt, rows, columns)
        for part, tensor in expected.tensors.items():
            assert torch.equal(unit.packed.tensors[part], tensor), (name, part)


def test_learning_from_data_errs_less_than_rounding() -> None:
    """On the demo GPTQ passes its guard, and has less error than rounding to the nearest."""
    model, calibration, _ = demo.load()
    formats = [Format.parse("w4g64-zp"), Format.parse("w4g64-zp-gptq")]
    plans = uniform_plans(model, calibration, formats)
    assert plans[formats[1]].layers["wide.weight"].method == "gptq"
    batch = calibration.batches[0]
    with torch.no_grad():
        expected = model(batch)
        errors = [
            float((plans[fmt].apply(model)(batch) - expected).square().mean()) for fmt in formats
        ]
    assert errors[1] < errors[0]


def test_a_unit_that_nothing_enters_learns_from_data_all_the_same() -> None:
    model, calibration, _ = demo.load()
    plan = uniform_plan(model, calibration, Format.parse("w8a8-reduced-gptq-dynamic"))
    assert plan.assignment["attention.in_proj_weight"].name == "w8-reduced-gptq"


def test_a_plan_is_saved_with_its_codes(
    words: Words, tokens: Calibration, tmp_path_factory: pytest.TempPathFactory
) -> None:
    plan = uniform_plan(words, tokens, Format.parse("w4g64-zp-gptq"))
    file = tmp_path_factory.mktemp("plan") / "plan.json"
    plan.save(file)
    loaded = Plan.load(file)
    assert loaded == plan
    batch = tokens.batches[0]
    with torch.no_grad():
        assert torch.equal(loaded.apply(words)(batch), plan.apply(words)(batch))
