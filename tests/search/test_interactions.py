"""Audit: pairs of layers against a model whose interactions are known exactly."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import mixq
from mixq.errors import PlanError
from mixq.search.audit import Audit, AuditedPlan, Interaction
from mixq.search.interactions import (
    FEW_SAMPLES,
    MOST_LAYERS,
    SHARE,
    STAGE,
    affordable,
    interaction,
)
from mixq.sensitivity.metrics.metric import Tensors
from mixq.sensitivity.reference import Reference

PLAIN = mixq.Palette(bits=(8, 4), method="rtn")
"""Rounding that learns nothing, so that all samples are measured on."""
LAWS = settings(derandomize=True, deadline=None, max_examples=200)


class Apart(nn.Module):
    """Four layers, each with outputs of its own: their squared errors add up exactly."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(32, 32, bias=False) for _ in range(4))
        with torch.no_grad():
            for scale, layer in enumerate(self.layers, start=1):
                weight = torch.randn(32, 32, generator=generator)
                layer.weight.copy_(scale * weight)  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([layer(x) for layer in self.layers], dim=1)


class Summed(Apart):
    """The same layers, whose outputs are added: errors of two layers meet in one output."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([layer(x) for layer in self.layers]).sum(dim=0)


def data(samples: int = 96) -> Tensor:
    return torch.randn(samples, 32, generator=torch.Generator().manual_seed(1))


def audited(model: nn.Module, folder: Path | None = None) -> tuple[Audit, mixq.SearchResult]:
    result = mixq.search(
        model, data(), hardware="intel_cpu", target_compression=5, bits=(8, 4), trials=2,
        sensitivity="measured", sequential=False, folder=folder,
    )  # fmt: skip
    assert result.audit is not None
    return result.audit, result


def test_layers_that_do_not_meet_do_not_interact() -> None:
    audit, _ = audited(Apart())
    assert len(audit.layers) == 4
    assert len(audit.interactions) == 6
    for pair in audit.interactions:
        # Sums of 32 to 128 squares in float32: rounding grows no faster than their number.
        assert pair.together == pytest.approx(pair.apart, rel=128 * 2**-23)
    for plan in audit.plans:
        assert plan.measured == pytest.approx(plan.predicted, rel=128 * 2**-23)
    assert re.match("errors add up within [01]% ", audit.sentence)


def test_interactions_are_those_that_one_gets_by_hand() -> None:
    model = Summed()
    audit, result = audited(model)
    x, applied = data()[: audit.samples], result.plan.apply(model)
    changes = {}
    for index, layer in enumerate(model.layers):
        rounded = applied.layers[index].weight  # type: ignore[index,union-attr]
        changes[f"layers.{index}.weight"] = (x @ (rounded - layer.weight).T).detach().double()
    assert audit.interactions
    for pair in audit.interactions:
        u, v = changes[pair.first], changes[pair.second]
        # |u + v|^2 - |u|^2 - |v|^2 = 2 u.v, the mean over outputs of each sample.
        each = 2 * (u * v).mean(dim=1)
        scale = float((u.square() + v.square()).mean())
        assert pair.excess == pytest.approx(float(each.mean()), abs=1e-4 * scale)
        expected_se = float(each.std() / math.sqrt(len(each)))
        assert pair.excess_se == pytest.approx(expected_se, abs=1e-4 * scale)
        assert pair.together == pytest.approx(float((u + v).square().mean()), rel=1e-4)
    sizes = [abs(pair.excess) for pair in audit.interactions]
    assert sizes == sorted(sizes, reverse=True)


def test_a_second_run_measures_no_pair_again_and_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = audited(Summed(), tmp_path)
    compared: list[str] = []
    original = Reference.compared

    def counted(reference: Reference, index: int, outputs: Tensors, what: str) -> list[float]:
        compared.append(what)
        return original(reference, index, outputs, what)

    monkeypatch.setattr(Reference, "compared", counted)
    second, _ = audited(Summed(), tmp_path)
    assert second == first
    assert [what for what in compared if not what.startswith("rounded ")] == []


def test_an_interrupted_audit_goes_on(tmp_path: Path) -> None:
    steps: list[int] = []

    def stop(stage: str, done: int, total: int) -> None:
        if stage == STAGE and done == total // 2:
            raise KeyboardInterrupt
        if stage == STAGE:
            steps.append(done)

    options = {
        "hardware": "intel_cpu", "target_compression": 5, "palette": PLAIN, "trials": 2,
        "sensitivity": "measured", "folder": tmp_path,
    }  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        mixq.search(Summed(), data(), progress=stop, **options)  # type: ignore[arg-type]
    before = len(steps)
    steps.clear()
    again, _ = audited(Summed(), tmp_path)
    assert before > 0
    assert again == audited(Summed())[0]


@pytest.mark.parametrize(
    ("layers", "samples", "passed", "expected"),
    [
        (40, 12, 5000, (6, 12)),
        (40, 64, 5000, (6, 23)),
        (40, 64, 800, (5, 5)),
        (40, 64, 10, (2, 4)),
        (40, 2, 10, (2, 2)),
        (3, 64, 5000, (3, 64)),
        (1, 64, 5000, (0, 0)),
        (0, 64, 5000, (0, 0)),
    ],
    ids=["all", "fewer-samples", "fewer-layers", "least", "tiny", "three", "one", "none"],
)
def test_what_is_affordable(
    layers: int, samples: int, passed: int, expected: tuple[int, int]
) -> None:
    assert affordable(layers, samples, passed) == expected


@LAWS
@given(layers=st.integers(0, 99), samples=st.integers(1, 999), passed=st.integers(0, 10**6))
def test_the_audit_is_cheap_beside_the_sensitivities(
    layers: int, samples: int, passed: int
) -> None:
    count, taken = affordable(layers, samples, passed)
    assert count <= min(layers, MOST_LAYERS)
    assert taken <= samples
    assert count * (count + 1) // 2 * taken <= max(SHARE * passed, 3 * FEW_SAMPLES)


def test_the_excess_is_paired() -> None:
    """Errors that differ by sample and do not interact have no standard error."""
    found = interaction("u", "v", [1.0, 8.0], [2.0, 16.0], [3.5, 24.5])
    assert (found.apart, found.together) == (13.5, 14.0)
    assert (found.excess, found.excess_se) == (0.5, 0.0)


def made(ratio: float, *pairs: Interaction) -> Audit:
    plans = (
        AuditedPlan("uniform 8", "uniform", 9, 0.1, 0.1, 0.0),
        AuditedPlan("optimum", "additive", 5, 2.0, 2.0 * ratio, 0.01),
    )
    return Audit("mse", "optimum", plans, 8, ("b", "a"), pairs)


SENTENCES = {
    "well": (made(1.115), "errors add up within 12% (2.23 measured, 2 added)"),
    "below": (made(0.9), "errors add up within 12% (1.8 measured, 2 added)"),
    "badly": (made(2.1), "the plan errs 2.1 times what its layers add up to (4.2 measured, 2 ad"),
    "told": (
        made(1.0, Interaction("a", "b", 1.0, 1.5, 0.5, 0.1)),
        "; largest interaction a x b, +25.0% of the added error",
    ),
    "noise": (
        made(1.0, Interaction("a", "b", 1.0, 1.5, 0.5, 0.3)),
        "; no interaction of two layers that the samples tell",
    ),
    "nothing": (made(0.0), "nothing to say of how errors add up"),
}


@pytest.mark.parametrize(("audit", "said"), SENTENCES.values(), ids=SENTENCES)
def test_sentence(audit: Audit, said: str) -> None:
    assert said in audit.sentence


def test_audit_json(tmp_path: Path) -> None:
    audit = made(1.5, Interaction("a", "b", 1.0, 1.5, 0.5, 0.1))
    audit.save(tmp_path / "audit.json")
    assert Audit.load(tmp_path / "audit.json") == audit


BROKEN = {
    "nan": ("measured", float("nan")),
    "negative": ("predicted", -1.0),
    "text": ("weight_bytes", "9"),
}


@pytest.mark.parametrize(("name", "value"), BROKEN.values(), ids=BROKEN)
def test_damaged_audits_are_refused(tmp_path: Path, name: str, value: object) -> None:
    data = made(1.0).to_json()
    data["plans"][1][name] = value
    (tmp_path / "audit.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(PlanError, match=r"audit\.json"):
        Audit.load(tmp_path / "audit.json")


def test_audits_of_nothing_are_refused(tmp_path: Path) -> None:
    data = {**made(1.0).to_json(), "chosen": "another"}
    (tmp_path / "audit.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(PlanError, match="is none of the plans"):
        Audit.load(tmp_path / "audit.json")
    with pytest.raises(PlanError, match="audit"):
        Audit.load(tmp_path / "none.json")
