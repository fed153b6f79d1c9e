"""deployed: rounding in sequence is kept where it errs less and breaks no demand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
from torch import nn

import mixq
from mixq.calibration import Calibration
from mixq.errors import FormatError, MixqError, NonFiniteError
from mixq.formats import Format
from mixq.graph.model_graph import ModelGraph
from mixq.rounding.rounder import Rounder
from mixq.search.limits import Totals
from mixq.search.sequence import Deployed, deployed
from mixq.search.session import Session
from mixq.search.trials import Proposal, Trial
from mixq.sensitivity.reference import Reference

GPTQ, CLIP = Format.parse("w4g64-gptq"), Format.parse("w4g64-clip")
TOTALS = Totals(error=0.0, weight_bytes=1, latency_s=0.0, peak_memory_bytes=1, compression=1.0)


def trial(errors: Sequence[float], heldout: Sequence[float] | None, fmt: Format = GPTQ) -> Trial:
    proposal = Proposal("optimum", "additive", {"a": fmt})
    return Trial(proposal, TOTALS, tuple(errors), None if heldout is None else tuple(heldout))


class FakeSession:
    rounder = cast("Rounder", object())
    references = cast("dict[str, Reference]", {})

    def progress(self, stage: str, done: int, total: int) -> None: ...


class FakeRounder:
    def prepare(self, formats: object, progress: object) -> None: ...


WHOLE, ANOTHER = cast("Rounder", FakeRounder()), cast("Rounder", object())


@pytest.fixture
def sequence(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What rounding in sequence gives: errors, or an error that it raises; `whole`, what rounding
    with all data gives."""
    gives: dict[str, Any] = {"errors": {"calibration": [1.0], "heldout": [1.0]}, "asked": 0}
    gives["whole"] = {"calibration": [1e3], "heldout": [1e3]}

    def rounds(*_: object) -> Rounder:
        gives["asked"] += 1
        if "raises" in gives:
            raise gives["raises"]
        return ANOTHER

    monkeypatch.setattr("mixq.search.sequence.round_in_sequence", rounds)
    monkeypatch.setattr(
        "mixq.search.sequence.joint_errors",
        lambda rounder, *_: gives["whole" if rounder is WHOLE else "errors"],
    )
    return gives


def deploy(chosen: Trial, *, is_accepted: bool = True, **options: Any) -> Deployed:
    given: dict[str, Any] = {"sequential": True, "measured_samples": 4, **options}
    calibration = Calibration.of(torch.zeros(given.pop("samples", 4), 2))
    return deployed(
        cast("Session", FakeSession()), chosen, cast("ModelGraph", None), calibration,
        whole=lambda: WHOLE,
        accept=lambda rounder, trial: is_accepted and rounder in (WHOLE, ANOTHER), **given,
    )  # fmt: skip


def test_less_error_on_the_data_that_judge_is_kept_and_said(sequence: dict[str, Any]) -> None:
    sequence["errors"] = {"calibration": [3.0, 5.0], "heldout": [0.5]}
    found = deploy(trial([1.0, 1.0], [0.8]))
    assert found.rounder is ANOTHER
    assert (found.trial.errors, found.trial.heldout_errors) == ((3.0, 5.0), (0.5,))
    assert found.notes == (
        "rounded in sequence: error 0.5; as it was measured beside other plans, 0.8",
    )


@pytest.mark.parametrize("heldout", [0.8, 0.9], ids=["as-much", "more"])
def test_no_less_error_is_not_kept(sequence: dict[str, Any], heldout: float) -> None:
    sequence["errors"] = {"calibration": [0.0], "heldout": [heldout]}
    chosen = trial([1.0], [0.8])
    found = deploy(chosen)
    assert found.rounder is FakeSession.rounder
    assert found.trial is chosen
    assert found.notes == ()


def test_without_heldout_data_calibration_data_judge(sequence: dict[str, Any]) -> None:
    sequence["errors"] = {"calibration": [0.5]}
    found = deploy(trial([1.0], None))
    assert found.trial.heldout_errors is None
    assert found.rounder is ANOTHER


def test_a_demand_that_it_would_break_goes_first(sequence: dict[str, Any]) -> None:
    sequence["errors"] = {"calibration": [9.0], "heldout": [0.1]}
    chosen = trial([1.0], [0.8])
    found = deploy(chosen, is_accepted=False)
    assert found.rounder is FakeSession.rounder
    assert found.trial is chosen


@pytest.mark.parametrize(
    ("whole", "sequence_gives", "kept"),
    [(0.5, 0.6, WHOLE), (0.6, 0.5, ANOTHER), (0.6, 0.6, WHOLE), (0.9, 0.8, None)],
    ids=["all-data", "sequence", "as-good", "neither"],
)
@pytest.mark.parametrize("is_said_to_take_part", [True, False], ids=["in-sequence", "one-shot"])
def test_the_best_of_all_ways_is_kept(
    sequence: dict[str, Any],
    whole: float,
    sequence_gives: float,
    kept: Rounder | None,
    is_said_to_take_part: bool,
) -> None:
    sequence["whole"] = {"calibration": [7.0], "heldout": [whole]}
    sequence["errors"] = {"calibration": [7.0], "heldout": [sequence_gives]}
    found = deploy(trial([1.0], [0.8]), sequential=is_said_to_take_part)
    if not is_said_to_take_part:
        kept = WHOLE if whole < 0.8 else None
    assert found.rounder is (FakeSession.rounder if kept is None else kept)
    assert found.trial.heldout_errors == (
        (0.8,) if kept is None else (min(whole, sequence_gives),) if kept is ANOTHER else (whole,)
    )
    assert len(found.notes) == (kept is not None)


@pytest.mark.parametrize(
    "error", [FormatError("no fit"), NonFiniteError("infinite")], ids=["no-fit", "infinite"]
)
def test_what_cannot_be_done_leaves_the_plan_as_it_was_measured(
    sequence: dict[str, Any], error: MixqError
) -> None:
    sequence["raises"] = error
    chosen = trial([1.0], [0.8])
    assert deploy(chosen).trial is chosen


@pytest.mark.parametrize(
    ("fmt", "options", "asked"),
    [
        (GPTQ, {"sequential": True}, True),
        (GPTQ, {"sequential": True, "samples": 400}, True),
        (GPTQ, {"sequential": None, "samples": 16}, True),
        (GPTQ, {"sequential": None, "samples": 17}, False),
        (GPTQ, {"sequential": False}, False),
        (CLIP, {"sequential": True}, False),
    ],
    ids=["asked", "asked-and-long", "cheap", "too-long", "unwanted", "learns-nothing"],
)
def test_when_it_is_tried(
    sequence: dict[str, Any], fmt: Format, options: dict[str, Any], asked: bool
) -> None:
    deploy(trial([2.0], [2.0], fmt), **options)
    assert sequence["asked"] == int(asked)


def net() -> nn.Sequential:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def correlated(samples: int = 256) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(samples, 12, generator=generator) @ torch.randn(12, 32, generator=generator)


def test_a_search_deploys_what_it_rounded_last() -> None:
    model, data = net(), correlated()
    plans = {}
    for sequential in (True, False):
        result = mixq.search(
            model, data, hardware="intel_cpu", target_compression=5.5, bits=(8, 4), trials=1,
            sequential=sequential,
        )  # fmt: skip
        assert result.chosen in result.trials
        plan = plans[sequential] = result.plan
        with torch.no_grad():
            heldout = data[192:]
            error = (plan.apply(model)(heldout) - model(heldout)).square().mean().item()
        assert plan.measured.heldout_output_mse == pytest.approx(error, rel=1e-4)
    assert plans[True].assignment == plans[False].assignment
    errors = {key: plan.measured.heldout_output_mse or 0.0 for key, plan in plans.items()}
    assert 0 < errors[True] < errors[False]
    assert any(note.startswith("rounded in sequence") for note in plans[True].notes)


def test_a_search_keeps_max_error_however_it_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding in sequence that judges well and breaks the demand is not deployed."""
    bad = {"calibration": [9.0] * 48, "heldout": [0.0] * 16}
    monkeypatch.setattr("mixq.search.sequence.joint_errors", lambda *_: bad)
    plan = mixq.search(
        net(), correlated(64), hardware="intel_cpu", target_compression=5.5, max_error=8.0,
        bits=(8, 4), trials=1, sequential=True,
    ).plan  # fmt: skip
    assert plan.measured.output_mse <= 8.0
    assert not any(note.startswith("rounded in sequence") for note in plan.notes)


def test_a_search_keeps_its_metric_however_it_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    model, good = net(), {"calibration": [0.0] * 48, "heldout": [0.0] * 16}
    original = model.get_parameter("0.weight").detach().clone()
    rounded_last = False

    def in_sequence(*_: object) -> dict[str, list[float]]:
        nonlocal rounded_last
        rounded_last = True
        return good

    def evaluate(candidate: nn.Module) -> dict[str, float]:
        is_original = torch.equal(candidate.get_parameter("0.weight"), original)
        return {"accuracy": 0.1 if rounded_last and not is_original else 0.9}

    monkeypatch.setattr("mixq.search.sequence.joint_errors", in_sequence)
    plan = mixq.search(
        model, correlated(64), hardware="intel_cpu", target_compression=5.5, max_metric_drop=0.5,
        evaluate=evaluate, bits=(8, 4), trials=1, sequential=True,
    ).plan  # fmt: skip
    assert rounded_last
    assert plan.measured.metric == {"accuracy": 0.9}
    assert not any(note.startswith("rounded in sequence") for note in plan.notes)
