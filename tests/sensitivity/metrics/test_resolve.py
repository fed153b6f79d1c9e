"""resolve: the metric that a choice means for a model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mixq.calibration import Calibration
from mixq.errors import ModelError, SourceError
from mixq.sensitivity.metrics.choice import MetricChoice
from mixq.sensitivity.metrics.resolve import resolve

TOKENS = Calibration.of({"input_ids": torch.arange(8).reshape(2, 4)})


class Model(nn.Module):
    """Logits over 5 classes, per token unless `pooled`, beside its hidden states."""

    def __init__(self, *, pooled: bool = False, name: str = "logits", **config: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 6)
        self.head = nn.Linear(6, 5)
        self.pooled, self.name = pooled, name
        self.config = SimpleNamespace(**config)

    def forward(self, input_ids: Tensor) -> dict[str, Any]:
        hidden = self.embed(input_ids)
        logits = self.head(hidden.mean(1) if self.pooled else hidden)
        return {"ids": input_ids, "hidden_states": (hidden,), self.name: logits}


class TinyForCausalLM(Model):
    pass


class GPT2LMHeadModel(Model):
    pass


AUTO: dict[str, tuple[nn.Module, Any, str]] = {
    "class": (TinyForCausalLM(), None, "kl"),
    "gpt2": (GPT2LMHeadModel(), None, "kl"),
    "config": (Model(architectures=["LlamaForCausalLM"]), None, "kl"),
    "named": (TinyForCausalLM(), ["logits"], "kl"),
    "other-class": (Model(architectures=["BertForMaskedLM"]), None, "mse"),
    "no-architectures": (Model(architectures=None), None, "mse"),
    "text-for-a-list": (Model(architectures="ForCausalLM"), None, "mse"),
    "pooled": (TinyForCausalLM(pooled=True), None, "mse"),
    "other-name": (TinyForCausalLM(name="scores"), None, "mse"),
    "other-output": (TinyForCausalLM(), "hidden_states.0", "mse"),
    "two": (TinyForCausalLM(), "all", "mse"),
}


@pytest.mark.parametrize(("model", "outputs", "expected"), AUTO.values(), ids=AUTO)
def test_auto(model: nn.Module, outputs: Any, expected: str) -> None:
    assert resolve(MetricChoice("auto", outputs), model, TOKENS).name == expected


@pytest.mark.parametrize("name", ["mse", "relative", "kl", "cosine"])
def test_what_is_named_is_taken(name: str) -> None:
    metric = resolve(MetricChoice(name), TinyForCausalLM(), TOKENS)
    assert metric.name == name
    assert metric.weights == {"logits": 1.0}
    assert not metric.is_signed


def test_all_outputs_weigh_the_same() -> None:
    metric = resolve(MetricChoice("mse", "all"), Model(), TOKENS)
    assert metric.weights == {"hidden_states.0": 0.5, "logits": 0.5}


def test_a_bare_tensor_is_called_output() -> None:
    data = Calibration.of(torch.zeros(2, 3))
    assert resolve(MetricChoice(), nn.Linear(3, 2), data).weights == {"output": 1.0}


def test_a_loss_gets_all_outputs_unless_some_are_named() -> None:
    def loss(outputs: dict[str, Tensor], batch: object) -> Tensor:
        return outputs["logits"].sum((1, 2))

    metric = resolve(MetricChoice(loss), Model(), TOKENS)
    assert metric.weights == {"hidden_states.0": 0.5, "logits": 0.5}
    assert metric.is_signed
    assert metric.name.endswith("loss")
    assert resolve(MetricChoice(loss, "logits"), Model(), TOKENS).weights == {"logits": 1.0}


def test_a_loss_by_its_place(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def loss(outputs, batch):\n    return outputs['logits'].sum((1, 2))\n")
    metric = resolve(MetricChoice(f"{file}:loss"), Model(), TOKENS)
    assert metric.name == f"{file}:loss"
    with pytest.raises(SourceError, match="has no 'lost'; did you mean 'loss'"):
        resolve(MetricChoice(f"{file}:lost"), Model(), TOKENS)


def test_refusals_name_what_there_is() -> None:
    with pytest.raises(ModelError, match=r"'lm'; it returns hidden_states\.0, logits"):
        resolve(MetricChoice("mse", ["lm"]), Model(), TOKENS)
    with pytest.raises(ModelError, match="without floating-point numbers"):
        resolve(MetricChoice("mse", "all"), Integers(), TOKENS)


class Integers(nn.Module):
    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        return {"ids": input_ids}
