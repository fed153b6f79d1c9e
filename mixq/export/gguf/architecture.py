"""Architecture: what llama.cpp calls a Hugging Face model's parts, and how it reads them.

The facts are those of `convert_hf_to_gguf.py` of llama.cpp (conversion/{llama,qwen,phi,gemma}.py);
each architecture here is run in llama.cpp against transformers by the tests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from torch import nn

from mixq.errors import ExportError
from mixq.files import one_line

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Architecture:
    """One kind of model.

    Attributes:
        name: in GGUF (`MODEL_ARCH_NAMES` in gguf-py's constants.py).
        permuted: whether rotary embedding turns neighbouring rows of queries and keys, where
            transformers turns rows that are half a head apart.
        norm_offset: what transformers adds to the weights of a norm, and GGUF stores.
        activation: the only `hidden_act` that llama.cpp computes for it.
    """

    name: str
    permuted: bool = False
    norm_offset: float = 0.0
    activation: str = "silu"


ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    "llama": Architecture("llama", permuted=True),
    "mistral": Architecture("llama", permuted=True),
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
    "phi3": Architecture("phi3"),
    "gemma": Architecture("gemma", norm_offset=1.0, activation="gelu_pytorch_tanh"),
}
"""By `model_type` of the configuration."""


@dataclass(frozen=True)
class Described:
    """A model of a known architecture.

    Attributes:
        architecture: its kind.
        config: its Hugging Face configuration.
        rope: parameters of its rotary embedding: `rope_type`, `rope_theta`, ...
    """

    architecture: Architecture
    config: Any
    rope: Mapping[str, Any]

    @property
    def layers(self) -> int:
        """Number of transformer blocks."""
        return int(self.config.num_hidden_layers)

    @property
    def heads(self) -> int:
        """Number of query heads."""
        return int(self.config.num_attention_heads)

    @property
    def key_heads(self) -> int:
        """Number of key and value heads."""
        return int(getattr(self.config, "num_key_value_heads", None) or self.heads)

    @property
    def head_columns(self) -> int:
        """Numbers of a head."""
        own = getattr(self.config, "head_dim", None)
        return int(own or self.config.hidden_size // self.heads)

    @property
    def rotated(self) -> int:
        """Numbers of a head that rotary embedding turns."""
        share = self.rope.get("partial_rotary_factor")
        share = getattr(self.config, "partial_rotary_factor", None) if share is None else share
        return int(self.head_columns * (1.0 if share is None else share))

    def row_order(self, name: str, rows: int) -> Rows:
        """Which row of a parameter stands at each place of its tensor in the file."""
        part = name.split(".")[-2] if "." in name else ""
        heads = {"q_proj": self.heads, "k_proj": self.key_heads}.get(part)
        if heads is None or not self.architecture.permuted:
            return np.arange(rows)
        # `LlamaModel.permute`: (heads, 2, half, columns) becomes (heads, half, 2, columns).
        halves = np.arange(rows).reshape(heads, 2, rows // heads // 2)
        return halves.swapaxes(1, 2).reshape(-1)

    def rope_factors(self) -> npt.NDArray[np.float32] | None:
        """What llama.cpp divides the rotary frequencies by, for Llama 3's long contexts.

        Source: `_compute_llama3_parameters` in transformers' modeling_rope_utils.py.
        """
        if self.rope["rope_type"] != "llama3":
            return None
        factor, low, high, original = (
            float(self.rope[key])
            for key in (
                "factor", "low_freq_factor", "high_freq_factor",
                "original_max_position_embeddings",
            )
        )  # fmt: skip
        exponents = np.arange(0, self.rotated, 2, dtype=np.float64) / self.rotated
        wavelengths = 2 * math.pi * float(self.rope["rope_theta"]) ** exponents
        smooth = (original / wavelengths - low) / (high - low)
        between = 1 / ((1 - smooth) / factor + smooth)
        factors = np.where(wavelengths > original / low, factor, between)
        return np.where(wavelengths < original / high, 1.0, factors).astype(np.float32)


def described(model: nn.Module) -> Described:
    """What llama.cpp would call this model.

    Raises:
        ExportError: if it knows no such model, or not this variant, with the legal choices.
    """
    config = getattr(model, "config", None)
    kind = getattr(config, "model_type", None)
    name = type(model).__name__
    known = ", ".join(ARCHITECTURES)
    if not isinstance(kind, str) or kind not in ARCHITECTURES or not name.endswith("ForCausalLM"):
        raise ExportError(
            f"model {one_line(name, 60)} of type {kind!r:.40} has no counterpart in llama.cpp "
            f"that mixq can write; GGUF takes causal language models of transformers of the types "
            f"{known}"
        )
    architecture = ARCHITECTURES[kind]
    rope = {"rope_type": "default", "rope_theta": 10000.0, **(_rope(config) or {})}
    found = Described(architecture, config, rope)
    if rope["rope_type"] not in ("default", "linear", "llama3"):
        raise _variant(name, "rope_type", rope["rope_type"], "default, linear, llama3")
    if found.rotated != found.head_columns and architecture.name != "phi3":
        raise _variant(name, "partial_rotary_factor", found.rotated / found.head_columns, "1.0")
    activation = getattr(config, "hidden_act", None) or architecture.activation
    if activation != architecture.activation:
        raise _variant(name, "hidden_act", activation, architecture.activation)
    return found


def sliding_window(config: Any) -> int | None:
    """Tokens that attention looks back, where the model limits them below its context length."""
    window = getattr(config, "sliding_window", None)
    if not window or getattr(config, "use_sliding_window", True) is False:
        return None
    return int(window) if window < config.max_position_embeddings else None


def _rope(config: Any) -> Mapping[str, Any] | None:
    rope = getattr(config, "rope_parameters", None)
    return rope if isinstance(rope, Mapping) else None


def _variant(model: str, key: str, value: object, choices: str) -> ExportError:
    return ExportError(
        f"model {one_line(model, 60)} has {key}={one_line(value, 60)}, which mixq cannot write "
        f"for llama.cpp; it takes {choices}"
    )
