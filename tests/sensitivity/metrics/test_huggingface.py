"""Outputs of transformers' own classes, nested and padded, in every metric."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mixq.calibration import Calibration
from mixq.formats import Format
from mixq.graph.find import find_units
from mixq.sensitivity.measured import measure
from mixq.sensitivity.metrics.choice import MetricChoice
from mixq.sensitivity.metrics.resolve import DISTANCES, resolve
from mixq.sensitivity.reference import Reference

transformers = pytest.importorskip("transformers")
SMALL: dict[str, Any] = {
    "vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 16,
}  # fmt: skip
FORMATS = tuple(map(Format.parse, ("w8", "w2g16-zp")))


def model(kind: str, config: str, **more: Any) -> nn.Module:
    torch.manual_seed(0)
    settings = getattr(transformers, config)(**SMALL, **more)
    made: nn.Module = getattr(transformers, kind)(settings).eval()
    return made


def texts(lengths: tuple[int, ...] = (5, 8), width: int = 8) -> dict[str, Tensor]:
    ids = torch.arange(len(lengths) * width).reshape(len(lengths), width) % 19 + 1
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def measured(net: nn.Module, data: object, metric: str, outputs: Any = None) -> list[float]:
    calibration = Calibration.of(data)
    units = find_units(net)[:3]
    found = resolve(MetricChoice(metric, outputs), net, calibration)
    reference = Reference(net, calibration, found)
    formats = {unit.name: FORMATS for unit in units}
    table = measure(net, calibration, units, formats, reference=reference)
    return [entry.error for row in table.entries.values() for entry in row.values()]


def test_a_causal_language_model_is_known_by_itself() -> None:
    llama = model("LlamaForCausalLM", "LlamaConfig", use_cache=False, pad_token_id=0)
    found = resolve(MetricChoice(), llama, Calibration.of(texts()))
    assert (found.name, found.weights) == ("kl", {"logits": 1.0})
    masked = model("BertForMaskedLM", "BertConfig")
    assert resolve(MetricChoice(), masked, Calibration.of(texts())).name == "mse"


@pytest.mark.parametrize("metric", DISTANCES)
def test_padding_changes_no_table(metric: str) -> None:
    """But for rounding to float32, in which torch may sum another length in another order.

    A step of rounding, 6e-8 of the logits, is some 1e-4 of what 8 bits change in them.
    """
    llama = model("LlamaForCausalLM", "LlamaConfig", use_cache=False, pad_token_id=0)
    padded = measured(llama, texts((5,)), metric)
    plain = measured(llama, {k: v[:, :5] for k, v in texts((5,)).items()}, metric)
    assert padded == pytest.approx(plain, rel=1e-3)
    assert all(error > 0 for error in padded)


@pytest.mark.parametrize("metric", DISTANCES)
def test_question_answering_has_two_outputs(metric: str) -> None:
    bert = model("BertForQuestionAnswering", "BertConfig")
    both = measured(bert, texts(), metric, {"start_logits": 1, "end_logits": 3})
    start, end = (measured(bert, texts(), metric, name) for name in ("start_logits", "end_logits"))
    expected = [(a + 3 * b) / 4 for a, b in zip(start, end, strict=True)]
    assert both == pytest.approx(expected, rel=1e-12)


def test_hidden_states_are_outputs_too() -> None:
    bert = model("BertModel", "BertConfig", output_hidden_states=True)
    found = resolve(MetricChoice("cosine", "all"), bert, Calibration.of(texts()))
    assert found.weights is not None
    assert set(found.weights) == {
        "last_hidden_state", "pooler_output", *(f"hidden_states.{i}" for i in range(3))
    }  # fmt: skip
    assert all(error > 0 for error in measured(bert, texts(), "cosine", "hidden_states.2"))
