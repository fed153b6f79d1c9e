"""Tiny Hugging Face folders of every kind that streaming meets."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mixq.calibration import Calibration
from mixq.formats import Format
from mixq.sources import load_model
from mixq.streaming import StreamedModel, open_folder

transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)

TEXT = ("w32", "w8g16", "w4g16-zp", "w2g16-zp-squant", "w4g16-zp-hqq")
FORMATS = tuple(map(Format.parse, TEXT))
LLAMA: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
BERT: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "tied-head": ("LlamaForCausalLM", {**LLAMA, "tie_word_embeddings": True}),
    "own-head": ("LlamaForCausalLM", {**LLAMA, "tie_word_embeddings": False}),
    "encoder": ("BertModel", BERT),
    # One block that is called three times, and a tied head with a bias.
    "one-block-for-all": (
        "AlbertForMaskedLM",
        {**BERT, "num_hidden_layers": 3, "embedding_size": 16},
    ),
    "experts": (
        "Qwen2MoeForCausalLM",
        {
            **LLAMA,
            "num_hidden_layers": 2,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
            "num_experts": 3,
            "num_experts_per_tok": 2,
        },
    ),
}


@dataclass(frozen=True, eq=False)
class Both:
    """One model twice."""

    folder: Path
    whole: nn.Module
    streamed: StreamedModel
    calibration: Calibration

    @property
    def formats(self) -> dict[str, tuple[Format, ...]]:
        return dict.fromkeys(self.streamed.units, FORMATS)


def write(kind: str, folder: Path) -> Path:
    """Random weights, in several shards."""
    name, options = KINDS[kind]
    torch.manual_seed(0)
    model_class = getattr(transformers, name)
    model = model_class(model_class.config_class(**options))
    with torch.no_grad():
        for parameter in model.parameters():  # so that biases and norms count, too
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder, max_shard_size="20KB")
    return folder


def tokens(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(0, 40, shape, generator=torch.Generator().manual_seed(seed))


def calibration(kind: str) -> Calibration:
    if kind not in ("encoder", "one-block-for-all"):
        return Calibration.of([{"input_ids": tokens(2, 7)}, {"input_ids": tokens(1, 7, seed=2)}])
    mask = torch.ones(3, 6, dtype=torch.int64)
    mask[1, 4:] = 0
    return Calibration.of({"input_ids": tokens(3, 6), "attention_mask": mask})


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("streamed")
    return {kind: write(kind, root / kind) for kind in KINDS}


@pytest.fixture(scope="session", params=[kind for kind in KINDS if kind != "experts"])
def both(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Both:
    folder = folders[request.param]
    return Both(
        folder, load_model(str(folder)).model, open_folder(folder), calibration(request.param)
    )


@pytest.fixture
def copied(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A Llama in shards that a test may damage."""
    return Path(shutil.copytree(folders["own-head"], tmp_path / "llama"))


@pytest.fixture
def streamed(folders: dict[str, Path]) -> StreamedModel:
    return open_folder(folders["tied-head"])
