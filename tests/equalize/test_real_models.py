"""Models as they come: what is found, and that their 32-bit outputs stay to 1e-5."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mixq import demo
from mixq.batch import Batch, call
from mixq.calibration import Calibration
from mixq.equalize.equalization import Equalization
from mixq.equalize.find import find_equalization
from mixq.graph.evaluating import evaluating
from mixq.graph.state import stored_tensors

from .. import example_models
from .helpers import four_bits


@cache
def load(name: str) -> tuple[nn.Module, Calibration]:
    model, calibration, _ = example_models.load(name)
    return model, calibration


def largest_change(model: nn.Module, other: nn.Module, batch: Batch) -> float:
    """Largest relative change of any floating-point output."""

    def run(network: nn.Module) -> list[Tensor]:
        with evaluating(network):
            leaves = tree_leaves(call(network, batch))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]

    return max(
        float((a - b).norm() / a.norm()) for a, b in zip(run(model), run(other), strict=True)
    )


def pairs(found: Equalization, purpose: str) -> list[tuple[str, tuple[str, ...]]]:
    return [
        (scaling.producers[0].name, tuple(part.name for part in scaling.consumers))
        for scaling in found.scalings
        if scaling.purpose == purpose
    ]


def test_the_demo_folds_its_norms_and_balances_its_convolutions() -> None:
    model, calibration, _ = demo.load()
    found = find_equalization(model, calibration)
    assert len(found.folds) == 4
    assert pairs(found, "cross-layer") == [
        ("stem.weight", ("depthwise.weight",)),
        ("depthwise.weight", ("pointwise.weight",)),
        ("pointwise.weight", ("reduce.weight",)),
        ("attention.in_proj_weight", ("attention.out_proj.weight",)),
    ]
    assert largest_change(model, found.apply(model), calibration.batches[0]) < 1e-5


@pytest.mark.slow
def test_efficientnet_folds_all_norms_and_stops_at_relu6() -> None:
    model, calibration = load("efficientnet_lite0")
    found = find_equalization(model, calibration)
    folded = found.apply(model)
    assert len(found.folds) == 49
    assert not any("not folded" in line for line in found.skipped)
    assert sum("hardtanh" in line for line in found.skipped) == 33
    assert pairs(found, "cross-layer") == [
        ("_blocks.0._project_conv.weight", ("_blocks.1._expand_conv.weight",)),
        ("_blocks.15._project_conv.weight", ("_conv_head.weight",)),
    ]
    assert largest_change(model, folded, calibration.batches[0]) < 1e-5

    def size(network: nn.Module) -> int:
        return sum(item.stored_bytes for item in stored_tensors(network))

    channels = sum(m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    # Four rows per norm and a counter go, a bias comes.
    assert size(model) - size(folded) == 3 * 4 * channels + 49 * 8


@pytest.mark.slow
def test_minilm_moves_factors_through_attention_alone() -> None:
    model, calibration = load("minilm")
    found = find_equalization(model, calibration.take(8), input_scaling=True, round_trip=four_bits)
    layer = "encoder.layer.{}.attention."
    expected = [
        (f"{layer}self.value.weight".format(i), (f"{layer}output.dense.weight".format(i),))
        for i in range(6)
    ]
    assert pairs(found, "cross-layer") == expected
    assert set(pairs(found, "input")) <= set(expected)
    assert largest_change(model, found.apply(model), calibration.batches[0]) < 1e-5


@pytest.mark.slow
def test_crepe_keeps_the_norms_behind_its_activations() -> None:
    model, calibration = load("crepe_tiny")
    found = find_equalization(model, calibration)
    assert found.folds == ()
    assert sum("not folded" in line for line in found.skipped) == 6
    assert largest_change(model, found.apply(model), calibration.batches[0]) < 1e-5


def tokens(vocabulary: int) -> dict[str, Tensor]:
    ids = torch.randint(vocabulary, (4, 12), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids}


def language_model(kind: str, *, use_cache: bool = False, **options: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{kind}Config")(**options, use_cache=use_cache)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    assert isinstance(model, nn.Module)
    return model


def llama(**options: Any) -> nn.Module:
    return language_model(
        "Llama", vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, **options,
    )  # fmt: skip


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_llama_scales_norms_values_and_the_gated_half(attention: str) -> None:
    model = llama(attn_implementation=attention, tie_word_embeddings=False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(torch.linspace(-3, 3, len(parameter)).exp())
    found = find_equalization(
        model, tokens(50), cross_layer=False, input_scaling=True, round_trip=four_bits
    )
    expected = []
    for i in range(2):
        layer = f"model.layers.{i}."
        q, k, v, o = (f"{layer}self_attn.{name}_proj.weight" for name in "qkvo")
        gate, up, down = (f"{layer}mlp.{name}_proj.weight" for name in ("gate", "up", "down"))
        expected += [
            (f"{layer}input_layernorm.weight", (q, k, v)),
            (v, (o,)),
            (f"{layer}post_attention_layernorm.weight", (gate, up)),
            (up, (down,)),
        ]
    expected.append(("model.norm.weight", ("lm_head.weight",)))
    found_pairs = pairs(found, "input")
    assert [pair for pair in expected if pair in found_pairs] == found_pairs
    unprofitable = {line.split()[2] for line in found.skipped if "nothing to gain" in line}
    assert {producer for producer, _ in expected} == {p for p, _ in found_pairs} | unprofitable
    assert len(found_pairs) >= 5
    assert largest_change(model, found.apply(model), tokens(50)) < 1e-5


def test_llama_with_a_tied_head_keeps_its_last_norm() -> None:
    model = llama(tie_word_embeddings=True)
    found = find_equalization(
        model, tokens(50), cross_layer=False, input_scaling=True, round_trip=four_bits
    )
    line = next(line for line in found.skipped if "model.norm.weight" in line)
    assert "shares its memory" in line
    assert largest_change(model, found.apply(model), tokens(50)) < 1e-5


def test_a_cache_of_values_is_an_output() -> None:
    model = llama(tie_word_embeddings=False, use_cache=True)
    found = find_equalization(model, tokens(50))
    producers = [producer for producer, _ in pairs(found, "cross-layer")]
    assert not any("v_proj" in producer for producer in producers)
    assert any("up_proj" in producer for producer in producers)


def test_gpt2_scales_a_third_of_its_stacked_projection() -> None:
    model = language_model("GPT2", vocab_size=50, n_positions=16, n_embd=32, n_layer=2, n_head=4)
    found = find_equalization(model, tokens(50))
    assert pairs(found, "cross-layer") == [
        (f"transformer.h.{i}.attn.c_attn.weight", (f"transformer.h.{i}.attn.c_proj.weight",))
        for i in range(2)
    ]
    assert all(bool((scaling.factor[:64] == 1).all()) for scaling in found.scalings)
    assert not any(bool((scaling.factor[64:] == 1).any()) for scaling in found.scalings)
    assert largest_change(model, found.apply(model), tokens(50)) < 1e-5
