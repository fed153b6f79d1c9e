"""Tiny models of several architectures, written once for all tests of a module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mixq.calibration import Calibration
from mixq.export.genai.genai import Genai
from mixq.export.onnxruntime import ActivationChoice
from mixq.export.runtime import Written
from mixq.export.source import Source
from mixq.formats import Format

from ...plans import plan_for

pytest.importorskip("onnxruntime_genai", reason="an extra")
transformers = pytest.importorskip("transformers", reason="an extra")

SIZES = {
    "vocab_size": 264, "hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 2,
    "num_attention_heads": 3, "num_key_value_heads": 1, "max_position_embeddings": 128,
    "bos_token_id": 256, "eos_token_id": 256, "pad_token_id": 256,
}  # fmt: skip
ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)),
    "tied": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**SIZES, tie_word_embeddings=True)
    ),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SIZES)),
    "phi3": lambda: transformers.Phi3ForCausalLM(
        transformers.Phi3Config(**SIZES, original_max_position_embeddings=128)
    ),
}
FORMATS = ("w8g32", "w4g32-zp", "w2g32", "w4g64-affine", "w16", "w8-zp")
"""Six formats in turn over units that come in sevens meet every kind of matrix."""


@dataclass(frozen=True, eq=False)
class Folder:
    """A folder that was written, and what it was made from."""

    source: Source
    path: Path
    written: Written


def model_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    return ARCHITECTURES[name]().eval()


def source_of(model: nn.Module, tokenizer: Path | None, *formats: str) -> Source:
    torch.manual_seed(1)
    calibration = Calibration.of([{"input_ids": torch.randint(0, 256, (2, 12))}])
    plan = plan_for(model, *[Format.parse(name) for name in formats or FORMATS])
    return Source.of(model, plan, calibration, tokenizer)


def logits(model: nn.Module, ids: Tensor) -> Tensor:
    with torch.no_grad():
        found: Any = model(input_ids=ids)
    return found.logits  # type: ignore[no-any-return]


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer whose tokens are bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate([*letters, "<end>"])}
    words = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    folder = tmp_path_factory.mktemp("tokenizer")
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<end>", eos_token="<end>", pad_token="<end>"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder_of(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Folder]:
    """The folder of an architecture with activations of a kind, written when first asked for."""

    @cache
    def write(name: str, activations: ActivationChoice = "float") -> Folder:
        source = source_of(model_of(name), tokenizer)
        path = tmp_path_factory.mktemp("genai") / name
        written = Genai(activations=activations).write(source, path)
        return Folder(source, path, written)

    return write
