"""search(): the library call on tiny models, its promises about the model and its demands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from torch import Tensor, nn

import mixq
from mixq.errors import InfeasibleError, MixqError, OutputError, UsageError
from mixq.plan_check import check_plan
from mixq.plan_parts import StabilityInfo
from mixq.search.call import search
from mixq.search.limits import Limits
from mixq.search.palette import Palette
from mixq.search.request import Request, demands
from mixq.search.result import SearchResult
from mixq.search.stability import stability
from mixq.sensitivity.metrics.metric import Tensors
from mixq.sensitivity.reference import Reference


def net(seed: int = 0, *, dropout: bool = False) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    layers = [nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 32), nn.Dropout(0.5), nn.Linear(32, 8)]
    if not dropout:
        layers.pop(3)
    model = nn.Sequential(*layers)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def data(samples: int = 12) -> Tensor:
    return torch.randn(samples, 32, generator=torch.Generator().manual_seed(1))


Quick = Callable[..., SearchResult]


@pytest.fixture
def quick() -> Quick:
    def invoke(model: nn.Module | None = None, **demand: object) -> SearchResult:
        options: dict[str, object] = {"hardware": "intel_cpu", "trials": 2, **demand}
        calibration = options.pop("calibration", data())
        return search(net() if model is None else model, calibration, **options)  # type: ignore[arg-type]

    return invoke


def test_the_model_is_left_as_it_was(quick: Quick) -> None:
    model = net(dropout=True)
    model[0].eval()  # a mode that a user has mixed
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    random = torch.random.get_rng_state()
    result = quick(model, target_compression=5, evaluate=lambda m: {"a": float(m.training)})
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), random)
    assert torch.is_grad_enabled()
    assert result.plan.measured.metric == {"a": 0.0}  # evaluated in eval mode


def test_a_model_in_training_mode_is_measured_in_eval_mode(quick: Quick) -> None:
    training = quick(net(dropout=True).train(), target_compression=5)
    assert training.plan == quick(net(dropout=True).eval(), target_compression=5).plan


def test_what_a_result_holds(quick: Quick) -> None:
    result = quick(target_compression=5)
    assert result.chosen in result.trials
    assert result.plan.assignment == result.chosen.proposal.assignment
    assert result.plan.predicted.weight_bytes == result.chosen.totals.weight_bytes
    assert len(result.study.trials) == len(result.trials)
    assert set(result.sensitivity.entries) == set(result.plan.layers) == {
        "0.weight", "2.weight", "3.weight"
    }  # fmt: skip
    assert len(result.frontier) > 3
    assert result.plan.model.name == "Sequential"
    assert result.plan.budget == {"compression": 5}
    check_plan(result.plan)


def test_no_folder_means_nothing_is_written(
    quick: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    quick(target_compression=5)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_keeps_measurements_and_belongs_to_one_model(
    quick: Quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "new" / "run"
    first = quick(target_compression=5, folder=str(folder))
    assert json.loads((folder / "run.json").read_text(encoding="utf-8"))["state"] == "running"

    compared = Reference.compared

    def only_at_the_end(
        reference: Reference, index: int, outputs: Tensors, what: str
    ) -> list[float]:
        assert what.startswith("rounded "), f"{what} was measured again"
        return compared(reference, index, outputs, what)

    with monkeypatch.context() as patch:
        patch.setattr(Reference, "compared", only_at_the_end)
        assert quick(target_compression=5, folder=folder).plan == first.plan
    with pytest.raises(OutputError, match="another model"):
        quick(net(1), target_compression=5, folder=folder)
    with pytest.raises(OutputError, match="another hardware"):
        quick(target_compression=5, folder=folder, hardware="arm_mobile")


def test_other_heldout_data_are_measured_anew(quick: Quick, tmp_path: Path) -> None:
    inputs = data()
    other = inputs.clone()
    other[-1] *= 3
    first = quick(target_compression=5, folder=tmp_path, calibration=inputs)
    second = quick(target_compression=5, folder=tmp_path, calibration=other)
    fresh = quick(target_compression=5, calibration=other)
    assert second.plan == fresh.plan
    assert second.sensitivity == first.sensitivity
    assert second.plan.measured.heldout_output_mse != first.plan.measured.heldout_output_mse


def test_the_study_can_live_in_a_database(quick: Quick, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    result = quick(target_compression=5, storage=url)
    study = optuna.load_study(study_name=result.study.study_name, storage=url)
    assert [trial.params for trial in study.trials] == [
        {unit: fmt.name for unit, fmt in trial.proposal.assignment.items()}
        for trial in result.trials
    ]


def test_one_sample(quick: Quick) -> None:
    result = quick(target_compression=5, calibration=data(1), sensitivity="measured")
    assert result.plan.measured.heldout_output_mse is None
    assert any("nothing is held out" in note for note in result.plan.notes)
    assert any("nothing can be said of how stable" in note for note in result.plan.notes)
    assert result.plan.stability is not None
    assert result.plan.stability.resamplings == 0
    assert {layer.stability for layer in result.plan.layers.values()} == {None}
    assert all(uniform.heldout_output_mse is None for uniform in result.plan.uniform.values())


@pytest.mark.parametrize("sensitivity", ["auto", "measured", "sketch"])
def test_a_plan_says_how_stable_it_is(quick: Quick, sensitivity: Any) -> None:
    """The same as by itself, on what the search left."""
    result = quick(target_compression=5, seed=3, sensitivity=sensitivity, calibration=data(32))
    problem = result.layout.problem(result.sensitivity)
    size = int(problem.original_bytes / 5)
    found = stability(
        problem, result.sensitivity, result.chosen, Limits(weight_bytes=size), seed=3
    )
    assert found is not None
    plan = result.plan
    for unit, layer in plan.layers.items():
        assert layer.stability == found.widths.get(unit)
        assert layer.format_stability == found.formats.get(unit)
    samples = result.sensitivity.samples
    assert samples >= 4 or sensitivity == "auto"  # which may settle a small model on fewer
    assert plan.stability == StabilityInfo(
        samples=samples, resamplings=100 if samples >= 4 else 0,
        kept=found.kept, regret=found.regret,
    )  # fmt: skip


def test_the_seed_decides_and_nothing_else(quick: Quick) -> None:
    plans: list[mixq.Plan] = []
    for _ in range(2):
        torch.manual_seed(len(plans))
        plans.append(quick(target_compression=5, trials=4, seed=3).plan)
    assert plans[0] == plans[1]


@pytest.mark.parametrize("bits", [8, 32])
def test_pins_hold_in_every_trial(quick: Quick, bits: int) -> None:
    result = quick(target_compression=1.8, pin={"2.*": bits}, trials=4)
    for trial in result.trials:
        assert trial.proposal.assignment["2.weight"].bits == bits
    assert result.plan.layers["2.weight"].bits == bits


def test_ties_hold_in_every_trial(quick: Quick) -> None:
    result = quick(target_compression=5, tie=["[023].weight"], trials=4)
    for trial in result.trials:
        assert len(set(trial.proposal.assignment.values())) == 1


class Shared(nn.Module):
    """One weight under two names, used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = net()[0]
        self.second = nn.Linear(48, 48, bias=False)
        self.again = nn.Linear(48, 48, bias=False)
        with torch.no_grad():
            self.second.weight.copy_(torch.linspace(-1, 1, 48 * 48).reshape(48, 48) / 8)
        self.again.weight = self.second.weight

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.again(self.second(self.first(x)).tanh())
        return hidden


def test_shared_weights_are_one_unit(quick: Quick, tmp_path: Path) -> None:
    model = Shared()
    result = quick(model, target_compression=5)
    assert list(result.plan.layers) == ["first.weight", "second.weight"]
    assert result.plan.layers["second.weight"].aliases == ["again.weight"]
    saved = mixq.save(result.plan.apply(model), tmp_path / "a.safetensors")
    assert saved == result.plan.predicted.weight_bytes


def test_the_plan_keeps_what_was_measured(quick: Quick) -> None:
    """Applied, the model has the output error that the search measured, to float32 rounding."""
    model = net()
    result = quick(model, target_compression=5)
    quantized = result.plan.apply(model)
    inputs = data()[7:9]  # of the 9 that are not held out, the quarter that is measured on
    with torch.no_grad():
        error = (quantized(inputs) - model(inputs)).square().mean().item()
    assert error == pytest.approx(result.plan.measured.output_mse, rel=1e-4)


@pytest.mark.parametrize(
    ("demand", "error"),
    [
        ({}, UsageError),
        ({"target_compression": 99}, InfeasibleError),
        ({"target_compression": 5, "trials": 0}, UsageError),
        ({"target_compression": 5, "seed": -1}, UsageError),
        ({"target_compression": 5, "batch_size": 0}, UsageError),
        ({"target_compression": 5, "bits": ()}, UsageError),
        ({"target_compression": 5, "hardware": "abacus"}, mixq.MixqError),
        ({"target_compression": 5, "calibration": []}, mixq.MixqError),
        ({"max_metric_drop": 0.1}, UsageError),
        ({"max_metric_drop": 0.1, "evaluate": lambda _: {"error_rate": 0.5}}, UsageError),
        ({"max_size_mb": float("nan")}, UsageError),
        ({"max_size_mb": 1e-9}, UsageError),
        ({"max_error": -1.0}, UsageError),
    ],
    ids=lambda value: "-".join(value) or "nothing" if isinstance(value, dict) else "",
)
def test_refusals(quick: Quick, demand: dict[str, object], error: type[MixqError]) -> None:
    with pytest.raises(error) as caught:
        quick(**demand)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("megabytes", "expected"),
    [(16.4, 16_400_000), (1.001, 1_001_000), (1e-6, 1), (1.0000009, 1_000_000)],
)
def test_megabytes_are_exact(megabytes: float, expected: int) -> None:
    assert demands(max_size_mb=megabytes).max_size_bytes == expected
    assert demands(max_memory_mb=megabytes).max_memory_bytes == expected


def test_milliseconds_are_seconds() -> None:
    assert demands(max_latency_ms=2.5).max_latency_s == 2.5e-3


def test_a_request_needs_a_demand() -> None:
    with pytest.raises(UsageError, match="no demand is given"):
        Request(demands())


def test_a_plan_that_is_smaller_but_not_faster_says_so() -> None:
    # ONNX Runtime has no packed convolution, so 8 bits are dequantized on every pass.
    model = nn.Sequential(nn.Conv2d(8, 32, 3), nn.ReLU(), nn.Conv2d(32, 8, 3)).eval()
    x = torch.randn(8, 8, 12, 12, generator=torch.Generator().manual_seed(0))
    plan = mixq.search(model, x, hardware="intel_cpu", target_compression=3.5, trials=1).plan
    assert plan.predicted.latency_s > plan.predicted.baseline_latency_s
    (note,) = [note for note in plan.notes if note.startswith("no speed-up expected here")]
    assert "2 of 2 narrower layers have no kernel for their format in onnxruntime" in note
    (slower,) = [note for note in plan.notes if note.startswith("2 of 2 layers are slower")]
    assert "0.weight (w8" in slower
    assert "no 8-bit conv kernel of onnxruntime" in slower


def test_a_plan_that_is_faster_says_nothing_of_the_kind() -> None:
    model = nn.Linear(2048, 2048)
    x = torch.randn(4, 2048, generator=torch.Generator().manual_seed(0))
    plan = mixq.search(
        model, x, hardware="intel_cpu", target_compression=7, trials=1,
        palette=Palette((32, 8, 4, 2), method="rtn"),  # which is quicker to round
    ).plan  # fmt: skip
    assert plan.predicted.latency_s < plan.predicted.baseline_latency_s
    assert not any("no speed-up" in note for note in plan.notes)
    (bound,) = [note for note in plan.notes if note.startswith("predicted speed-up")]
    assert "at most" in bound
    predicted = plan.predicted
    assert predicted.latency_low_s is not None
    assert predicted.latency_high_s is not None
    assert predicted.latency_low_s < predicted.latency_s < predicted.latency_high_s
    assert predicted.speedup == predicted.baseline_latency_s / predicted.latency_s
