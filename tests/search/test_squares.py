"""Searches by every metric: what the plan says is in it, and its squared errors stay true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mixq
from mixq.calibration import Calibration
from mixq.errors import MixqError, ModelError, NonFiniteError, UsageError
from mixq.plan_check import check_plan
from mixq.profiles import load
from mixq.search.call import search
from mixq.search.final_check import final_check
from mixq.search.palette import Palette
from mixq.search.result import SearchResult
from mixq.search.sensitivities import analyze
from mixq.sensitivity.metrics.metric import Tensors
from mixq.sensitivity.metrics.resolve import DISTANCES, of_plan
from mixq.sensitivity.metrics.weighted import Weighted
from mixq.sensitivity.reference import Reference

MEASURED = slice(7, 9)
"""Of 12 samples 3 are held out, and the last quarter of the others is measured on."""
HELDOUT = slice(9, 12)


class Net(nn.Module):
    """Two outputs, one of them behind the other."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.second, self.head = nn.Linear(32, 48), nn.Linear(48, 32), nn.Linear(32, 8)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = self.second(self.first(x).relu())
        return {"hidden": hidden, "logits": self.head(hidden.relu())}


def data() -> Tensor:
    return torch.randn(12, 32, generator=torch.Generator().manual_seed(1))


def searched(metric: Any = "auto", **options: Any) -> SearchResult:
    given: dict[str, Any] = {"hardware": "intel_cpu", "trials": 2, "target_compression": 5}
    return search(Net(), data(), metric=metric, **{**given, **options})


@pytest.fixture(scope="module")
def squared() -> SearchResult:
    return searched("mse")


def labelled(outputs: Tensors, batch: Tensor) -> Tensor:
    """Cross-entropy with labels that are the inputs' own."""
    return nn.functional.cross_entropy(outputs["logits"], batch[:, :8].argmax(1), reduction="none")


def errors_of(plan: mixq.Plan, metric: Weighted, part: slice) -> float:
    model, inputs = Net(), data()[part]
    with torch.no_grad():
        ours, theirs = metric.pick(plan.apply(model)(inputs)), metric.pick(model(inputs))
    return metric.errors(ours, theirs, inputs).mean().item()


@pytest.mark.parametrize("name", DISTANCES)
def test_a_plan_holds_its_metric_beside_squared_errors(name: str, squared: SearchResult) -> None:
    """Applied, the model has the errors that the plan says, to float32 rounding."""
    result = searched(name) if name != "mse" else squared
    plan = result.plan
    assert (plan.error_metric.name, plan.error_metric.outputs) == (name, {"logits": 1.0})
    assert result.sensitivity.metric == name
    metric, squares = of_plan(plan), Weighted()
    assert isinstance(metric, Weighted)
    said, uniform = plan.measured, plan.uniform
    assert said.heldout_error is not None
    for part, error, output_mse in (
        (MEASURED, said.error, said.output_mse),
        (HELDOUT, said.heldout_error, said.heldout_output_mse),
    ):
        assert errors_of(plan, metric, part) == pytest.approx(error, rel=1e-3)
        assert errors_of(plan, squares, part) == pytest.approx(output_mse, rel=1e-3)
    assert plan.predicted.error == result.chosen.totals.error
    assert (plan.predicted.output_mse is None) == (name != "mse")
    # The same codes as in the other searches, whatever was gone by.
    assert {width: info.output_mse for width, info in uniform.items()} == {
        width: info.output_mse for width, info in squared.plan.uniform.items()
    }
    if name != "mse":
        assert all(info.error != info.output_mse for info in uniform.values())
    assert all(info.heldout_error is not None for info in uniform.values())
    assert mixq.Plan.from_json(plan.model_dump_json()).to_json() == plan.to_json()
    check_plan(plan)
    assert final_check(result, Net(), Calibration.of(data())).passed


def test_trials_and_demands_are_in_the_metric() -> None:
    large = Net()
    with torch.no_grad():
        large.head.weight.mul_(1e3)
    result = search(large, data(), hardware="intel_cpu", trials=1, metric="cosine", max_error=1e-3)
    assert result.plan.measured.error <= 1e-3
    assert result.chosen.measured.error == result.plan.measured.error
    check_plan(result.plan)
    assert result.plan.measured.output_mse > 1e-3  # which the demand is not of


def test_nothing_is_taken_from_another_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: list[dict[str, Any]] = [
        {"metric": "mse"}, {"metric": "kl"}, {"metric": "mse", "outputs": "hidden"},
        {"metric": "mse", "outputs": {"hidden": 1, "logits": 3}}, {"metric": labelled},
    ]  # fmt: skip
    fresh = [searched(**option) for option in options]
    kept = [searched(**option, folder=tmp_path) for option in options]
    for own, other in zip(fresh, kept, strict=True):
        assert own.plan == other.plan
        assert own.sensitivity == other.sensitivity
    assert len({result.study.study_name for result in kept}) == len(options)

    def never(own: Reference, index: int, outputs: Tensors, what: str) -> list[float]:
        if what.startswith("rounded ") or own.metric.name == "mse":
            return compared(own, index, outputs, what)
        raise AssertionError(f"{what} was measured again")

    compared = Reference.compared
    monkeypatch.setattr(Reference, "compared", never)
    assert searched("kl", folder=tmp_path).plan == fresh[1].plan
    assert searched(labelled, folder=tmp_path).plan == fresh[4].plan


def test_a_loss_that_falls_is_no_error() -> None:
    result = searched(labelled)
    assert result.plan.error_metric.name.endswith(":labelled")
    assert result.plan.error_metric.outputs == {"hidden": 0.5, "logits": 0.5}
    entries = [e for row in result.sensitivity.entries.values() for e in row.values()]
    assert all(entry.error >= 0 for entry in entries)
    assert any(entry.error == 0 < entry.error_se for entry in entries)
    assert any(error < 0 for trial in result.trials for error in trial.errors)
    assert final_check(result, Net(), Calibration.of(data())).passed


def test_weights_of_outputs_count() -> None:
    both = {"hidden": 1.0, "logits": 1.0}
    tables = {
        name: searched("mse", outputs=outputs, sensitivity="measured").sensitivity
        for name, outputs in {"hidden": "hidden", "logits": "logits", "both": both}.items()
    }
    assert tables["both"].output == "hidden,logits"
    for unit, row in tables["both"].entries.items():
        for fmt, entry in row.items():
            parts = [tables[name].entries[unit][fmt].error for name in ("hidden", "logits")]
            assert entry.error == pytest.approx(sum(parts) / 2, rel=1e-12)
    assert tables["hidden"].entries["head.weight"] != tables["both"].entries["head.weight"]


def test_analyze_takes_them_too() -> None:
    palette, profile = Palette((32, 8), method="rtn"), load("intel_cpu")
    calibration = Calibration.of(data())
    for mode in ("auto", "measured", "sketch"):
        _, table = analyze(
            Net(), calibration, profile, palette=palette, metric="kl", outputs="logits",
            sensitivity=mode,
        )  # fmt: skip
        assert (table.metric, table.outputs, table.mode) == ("kl", {"logits": 1.0}, mode)
        assert table.entries["head.weight"]
    with pytest.raises(UsageError, match="sketch estimates built-in metrics alone"):
        analyze(
            Net(), calibration, profile, palette=palette, metric=labelled, sensitivity="sketch"
        )


def broken_by_change(outputs: Tensors, batch: Tensor) -> Tensor:
    with torch.no_grad():
        same = torch.equal(outputs["logits"], Net()(batch)["logits"])
    return outputs["logits"].sum(1) * (1.0 if same else float("nan"))


def failing(outputs: Tensors, batch: Tensor) -> Tensor:
    raise LookupError("labels are gone")


REFUSED: dict[str, tuple[dict[str, Any], type[MixqError], str]] = {
    "unknown": ({"metric": "huber"}, UsageError, "'huber', but it must be one of"),
    "sketched-loss": (
        {"metric": labelled, "sensitivity": "sketch"}, UsageError, "not a loss of your own",
    ),
    "output": ({"outputs": "scores"}, ModelError, "'scores'; it returns hidden, logits"),
    "weight": ({"outputs": {"logits": -1}}, UsageError, "weighs 'logits' with -1"),
    "loss-fails": ({"metric": failing}, ModelError, "failing failed with LookupError: labels"),
    "loss-nan": (
        {"metric": broken_by_change}, NonFiniteError,
        r"with \w+\.weight at w\w+(-\w+)*, the loss .*change is NaN",
    ),
    "kl-on-probabilities": ({"metric": "kl", "model": True}, ModelError, "add up to 1"),
}  # fmt: skip


class Probabilities(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x)["logits"].softmax(1)


@pytest.mark.parametrize(("options", "error", "words"), REFUSED.values(), ids=REFUSED)
def test_refusals(options: dict[str, Any], error: type[MixqError], words: str) -> None:
    given = dict(options)
    model = Probabilities() if given.pop("model", False) else Net()
    with pytest.raises(error, match=words) as caught:
        search(model, data(), hardware="intel_cpu", target_compression=5, trials=1, **given)
    assert "\n" not in str(caught.value)
