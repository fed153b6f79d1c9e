"""Small transformers models with fixed weights, and what their exporters are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixq.calibration import Calibration
from mixq.export.source import Source
from mixq.formats import Format
from tests.plans import plan_for

VOCABULARY = 96
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


def model(kind: str, **settings: Any) -> Any:
    """A random model: `llama`, `qwen2`, `phi3` or `bert`."""
    import transformers

    classes = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
        "phi3": (transformers.Phi3Config, transformers.Phi3ForCausalLM),
        "bert": (transformers.BertConfig, transformers.BertModel),
    }
    own: dict[str, Any] = {"use_cache": False, "pad_token_id": 0}
    if kind != "bert":
        own |= {"num_key_value_heads": 2}
    config_class, model_class = classes[kind]
    config = config_class(**{**SIZES, **own, **settings})
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    made = model_class(config)
    with torch.no_grad():
        for parameter in made.parameters():
            # Larger than the initial 0.02, so that logits are of order 1 and errors show.
            parameter += 0.1 * torch.randn(parameter.shape)
    return made.eval()


def batch(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"input_ids": torch.randint(1, VOCABULARY, (2, 12), generator=generator)}


def source(made: Any, *names: str, folder: Path | None = None) -> Source:
    """A plan with these formats in turn, applied."""
    plan = plan_for(made, *map(Format.parse, names))
    return Source.of(made, plan, Calibration.of(batch()), folder)


def difference(output: Tensor, reference: Tensor) -> float:
    """Relative root mean square difference."""
    return float((output - reference).norm() / reference.norm())
