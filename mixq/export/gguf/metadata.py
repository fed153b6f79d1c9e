"""Metadata: a model's hyper-parameters under the keys that llama.cpp reads."""

from __future__ import annotations

from typing import Any

from mixq.export.gguf.architecture import Described, sliding_window


def add_hyper_parameters(writer: Any, model: Described) -> None:
    """Write what llama.cpp has to know beside the tensors.

    Source: `TextModel.set_gguf_parameters` in conversion/base.py of llama.cpp, and those of the
    architectures.

    Args:
        writer: a `gguf.GGUFWriter` for the model's architecture.
        model: what is written.
    """
    import gguf

    config = model.config
    writer.add_type("model")
    writer.add_quantized_by("mixq")
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(model.layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(model.heads)
    writer.add_head_count_kv(model.key_heads)
    writer.add_key_length(model.head_columns)
    writer.add_value_length(model.head_columns)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(model.rotated)
    writer.add_rope_freq_base(float(model.rope["rope_theta"]))
    if model.rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(model.rope["factor"]))
    if model.architecture.name == "phi3":
        # llama.cpp refuses a Phi-3 without both; 0 is no window.
        writer.add_rope_scaling_orig_ctx_len(
            getattr(config, "original_max_position_embeddings", config.max_position_embeddings)
        )
        writer.add_sliding_window(sliding_window(config) or 0)
