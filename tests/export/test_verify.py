"""Verification: what counts of a file's bytes and outputs, and what it takes to pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mixq.calibration import Calibration
from mixq.errors import ExportError
from mixq.export.runtime import Written
from mixq.export.source import Source
from mixq.export.verify import (
    check_bytes,
    check_outputs,
    output_difference,
    own_difference,
    verified,
)
from mixq.formats import Format
from tests.export.fake import Change, Fake
from tests.export.models import source_of
from tests.plans import plan_for


@pytest.mark.parametrize(
    ("found", "predicted", "fine"),
    [
        (1000, 1000, True),
        (1005, 1000, True),
        (1006, 1000, False),
        (994, 1000, False),
        (0, 0, True),
    ],
)
def test_bytes_may_be_off_by_half_a_percent(found: int, predicted: int, fine: bool) -> None:
    written = Written(found, predicted, tolerance=1.0)
    if fine:
        check_bytes(written)
    else:
        with pytest.raises(ExportError, match=r"off by more than 0.5%"):
            check_bytes(written)


@pytest.mark.parametrize(
    ("difference", "fine"),
    [(1e-3, True), (1.1e-3, False), (float("nan"), False), (float("inf"), False)],
)
def test_outputs_keep_the_tolerance(difference: float, fine: bool) -> None:
    if fine:
        check_outputs(difference, 1e-3, "fake")
    else:
        with pytest.raises(ExportError, match=r"0\.001 is allowed"):
            check_outputs(difference, 1e-3, "fake")


class Tokens(nn.Module):
    """Two outputs per token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 6)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        hidden = self.embedding(input_ids)
        return {"logits": self.head(hidden), "hidden": hidden}


def of_tokens(change: Change, outputs: list[str]) -> float:
    torch.manual_seed(0)
    net = Tokens().eval()
    plan = plan_for(net, Format.parse("w8"))
    metric = plan.error_metric.model_copy(update={"outputs": outputs})
    batch = {
        "input_ids": torch.arange(6).view(2, 3),
        "attention_mask": torch.tensor([[1, 1, 0]] * 2),
    }
    source = Source.of(
        net, plan.model_copy(update={"error_metric": metric}), Calibration.of(batch)
    )
    fake = Fake(change=change)
    fake.check(source)
    return output_difference(source, fake)


def hidden_positions(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    logits = outputs["logits"].clone()
    logits[:, 2] = torch.nan
    return {**outputs, "logits": logits}


def scaled(**factors: float) -> Change:
    return lambda outputs: {name: t * factors.get(name, 1.0) for name, t in outputs.items()}


@pytest.mark.parametrize(
    ("change", "outputs", "expected"),
    [
        (scaled(), [], 0.0),
        (scaled(logits=1.5), [], 0.5),
        (scaled(hidden=1.5), [], 0.0),  # nobody measured it when the plan was made
        (scaled(hidden=1.5, logits=1.25), ["logits", "hidden"], 0.5),
        (scaled(hidden=torch.nan), ["logits", "hidden"], torch.nan),
        (scaled(logits=torch.nan), ["logits", "hidden"], torch.nan),
        (hidden_positions, ["logits"], 0.0),
    ],
)
def test_the_difference_is_the_largest_of_what_counts(
    change: Change, outputs: list[str], expected: float
) -> None:
    # The floats of the restored model add up in another order than the packed modules.
    assert of_tokens(change, outputs) == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_a_plan_of_other_outputs_is_refused() -> None:
    with pytest.raises(
        ExportError, match="none of the outputs that the plan's error is of: start"
    ):
        of_tokens(scaled(), ["start"])


class Chaos(nn.Module):
    """What float32 loses and float64 keeps is enlarged, so that the last bits are seen."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        lost = (x + 1000) - 1000 - x
        out: Tensor = self.head(x + 100 * lost)
        return out


def chaotic(fmt: str) -> Source:
    torch.manual_seed(0)
    net = Chaos().eval()
    plan = plan_for(net, Format.parse(fmt))
    return Source.of(net, plan, Calibration.of(torch.randn(8, 64)))


WRITTEN = Written(1000, 1000, tolerance=1e-4)


def test_a_plan_that_rounds_inputs_differs_from_itself_in_float64() -> None:
    assert own_difference(chaotic("w8a8-dynamic")) > WRITTEN.tolerance
    assert own_difference(source_of("linear-3d", "w8g32")) < 1e-6


@pytest.mark.parametrize(("share", "fine"), [(0.4, True), (1.9, True), (2.1, False)])
def test_it_may_differ_twice_as_much_in_a_runtime(share: float, fine: bool) -> None:
    source = chaotic("w8a8-dynamic")
    off = share * own_difference(source)
    fake = Fake(change=lambda outputs: {name: t * (1 + off) for name, t in outputs.items()})
    fake.check(source)
    if fine:
        difference, allowed = verified(source, fake, WRITTEN, "fake")
        assert WRITTEN.tolerance < difference <= allowed == 2 * own_difference(source)
    else:
        with pytest.raises(ExportError, match="outputs that differ from the plan's"):
            verified(source, fake, WRITTEN, "fake")


def test_a_plan_that_rounds_nothing_keeps_the_tolerance() -> None:
    source = chaotic("w8g32")
    fake = Fake(change=lambda outputs: {name: t * 1.001 for name, t in outputs.items()})
    fake.check(source)
    with pytest.raises(ExportError, match=r"0\.0001 is allowed"):
        verified(source, fake, WRITTEN, "fake")
