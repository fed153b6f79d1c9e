"""Small transformers models with fixed weights, and what their exporters are given."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixq.calibration import Calibration
from mixq.export.source import Source
from mixq.formats import Format
from mixq.sensitivity.outputs import floating_outputs
from tests.plans import plan_for

VOCABULARY = 96
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "use_cache": False,
}
CAUSAL = {"num_key_value_heads": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 5e3}}
"""A base of positions that is nobody's default."""


def model(kind: str, **settings: Any) -> Any:
    """A random model: `llama`, `qwen2`, `phi3`, `mamba`, `gpt2`, `bert` or `bert-lm`."""
    import transformers

    kinds: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM, CAUSAL),
        "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM, CAUSAL),
        "phi3": (transformers.Phi3Config, transformers.Phi3ForCausalLM, CAUSAL),
        "mamba": (transformers.MambaConfig, transformers.MambaForCausalLM, {}),
        "gpt2": (transformers.GPT2Config, transformers.GPT2LMHeadModel, {"n_ctx": 64}),
        "bert": (transformers.BertConfig, transformers.BertModel, {}),
        "bert-lm": (transformers.BertConfig, transformers.BertForMaskedLM, {}),
    }
    config_class, model_class, own = kinds[kind]
    config = config_class(**{**SIZES, **own, **settings})
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    made = model_class(config)
    with torch.no_grad():
        for parameter in made.parameters():
            # The initial 0.02 makes logits so small and flat that errors would not show.
            parameter += 0.1 * torch.randn(parameter.shape)
    return made.eval()


def batch(samples: int = 2, length: int = 12) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"input_ids": torch.randint(1, VOCABULARY, (samples, length), generator=generator)}


def source(made: Any, *names: str, folder: Path | None = None) -> Source:
    """A plan with these formats in turn, applied."""
    plan = plan_for(made, *map(Format.parse, names))
    return Source.of(made, plan, Calibration.of(batch()), folder)


@torch.no_grad()
def outputs(applied: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return floating_outputs(applied(**inputs))


def difference(output: Tensor, reference: Tensor) -> float:
    """Relative root mean square difference."""
    return float((output - reference).norm() / reference.norm())


def file_tensor_bytes(path: Path) -> int:
    """Bytes of a safetensors file less its header."""
    with path.open("rb") as file:
        (header,) = struct.unpack("<Q", file.read(8))
    return path.stat().st_size - 8 - int(header)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
