"""A model as a GGUF file: what is in it, and what llama.cpp computes with it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from mixq.errors import ExportError, MissingExtraError
from mixq.export.gguf import Gguf
from mixq.export.gguf.architecture import described
from mixq.export.gguf.contents import gguf_names
from mixq.export.gguf.runtime import HALF_TOLERANCE, ROUNDED_TOLERANCE
from mixq.export.runtime import FLOAT_TOLERANCE
from mixq.export.source import Source

from .gguf_models import source_of, tiny, tokenizer_folder

gguf: Any = pytest.importorskip("gguf", reason="an extra")
pytest.importorskip("cyllama", reason="an extra")
pytest.importorskip("transformers", reason="an extra")

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-wide-heads": ("llama", {"head_dim": 64}),
    "llama-3.1": ("llama", {"rope_parameters": LLAMA3}),
    "llama-linear": ("llama", {"rope_parameters": LINEAR}),
    "mistral": ("mistral", {}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "phi3": ("phi3", {}),
    "phi3-partly-rotated": ("phi3", {"partial_rotary_factor": 0.5}),
    "gemma": ("gemma", {"head_dim": 32}),
}
FLOAT_ROUNDING = 1e-5
"""Sums of up to 256 float32 products in another order, through two layers."""
GELU_TABLE = 1e-3
"""ggml looks its GELU up in a table of float16 numbers."""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokenizer_folder(tmp_path_factory.mktemp("tokenizer"))


def outputs(source: Source, path: Path) -> tuple[Tensor, Tensor]:
    """Logits in llama.cpp, and those of the applied plan."""
    batch = source.calibration.batches[0]
    assert isinstance(batch, dict)
    session = Gguf().open(path)
    found = session.run(batch)["logits"]
    session.close()
    with torch.no_grad():
        return found, source.applied(**batch).logits


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt())


def rounded(values: Tensor) -> Tensor:
    """What `quantize_row_q8_0` in ggml-quants.c makes of activations: 8 bits, 32 to a scale."""
    blocks = values.unflatten(-1, (-1, 32))
    scales = blocks.abs().amax(-1, keepdim=True) / 127
    result: Tensor = ((blocks / scales).round() * scales.half().float()).flatten(-2)
    return result


def tensors(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    return {
        item.name: gguf.quants.dequantize(item.data, item.tensor_type)
        for item in gguf.GGUFReader(path).tensors
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_llama_cpp_computes_what_transformers_computes(
    variant: str, tokenizer: Path, tmp_path: Path
) -> None:
    kind, changes = VARIANTS[variant]
    source = source_of(tiny(kind, **changes), tokenizer, "w32")
    path = tmp_path / "model.gguf"
    Gguf().check(source)
    written = Gguf().write(source, path)
    assert written.tensor_bytes == written.predicted_bytes
    limit = GELU_TABLE if kind == "gemma" else FLOAT_ROUNDING
    assert difference(*outputs(source, path)) < limit


@pytest.mark.parametrize("variant", VARIANTS)
def test_mixed_types_are_the_weights_of_the_plan(
    variant: str, tokenizer: Path, tmp_path: Path
) -> None:
    kind, changes = VARIANTS[variant]
    names = ("w8g32", "w4g32-affine", "w4g32-signed", "w2g64-zp", "w16", "w4-zp", "w8", "w16-bf16")
    source = source_of(tiny(kind, **changes), tokenizer, *names)
    path = tmp_path / "model.gguf"
    written = Gguf().write(source, path)
    assert written.tensor_bytes == written.predicted_bytes
    assert written.tensor_bytes == sum(int(t.n_bytes) for t in gguf.GGUFReader(path).tensors)
    read = tensors(path)
    model = described(source.model)
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH[model.architecture.name.upper()], 2)
    for unit in source.units.values():
        places = [table.get_name(name, (".weight",)) for name in unit.names]
        place = next(p for p in places if p in read)
        order = model.row_order(unit.names[0], unit.packed.rows)
        np.testing.assert_array_equal(read[place], unit.weight().numpy()[order])
    assert difference(*outputs(source, path)) < written.tolerance


@pytest.mark.parametrize("name", ["w8g32", "w4g32-signed"])
def test_rounded_activations_are_all_that_differs(
    name: str, tokenizer: Path, tmp_path: Path
) -> None:
    """With the inputs of every linear layer rounded as ggml does, torch gives the same logits."""
    source = source_of(tiny("llama"), tokenizer, name)
    Gguf().write(source, tmp_path / "model.gguf")
    found, applied = outputs(source, tmp_path / "model.gguf")
    for module in source.restored.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(lambda _, inputs: (rounded(inputs[0]),))
    batch = source.calibration.batches[0]
    assert isinstance(batch, dict)
    with torch.no_grad():
        expected = source.restored(**batch).logits
    assert difference(found, expected) < FLOAT_ROUNDING
    assert 1e-2 < difference(found, applied) < ROUNDED_TOLERANCE


@pytest.mark.parametrize(
    ("names", "tolerance"),
    [
        (("w32",), FLOAT_TOLERANCE),
        (("w32", "w16"), HALF_TOLERANCE),
        (("w32", "w16-bf16"), HALF_TOLERANCE),
        (("w32", "w8g32"), ROUNDED_TOLERANCE),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_the_tolerance_is_that_of_the_coarsest_activations(
    names: tuple[str, ...], tolerance: float, tokenizer: Path, tmp_path: Path
) -> None:
    source = source_of(tiny("llama"), tokenizer, *names)
    written = Gguf().write(source, tmp_path / "model.gguf")
    assert written.tolerance == tolerance
    assert difference(*outputs(source, tmp_path / "model.gguf")) < tolerance


@pytest.mark.parametrize(
    "name", ["w2", "w2g256-signed", "w2-zp", "w2-affine", "w4-zp", "w4-affine"]
)
def test_super_blocks_of_one_group_are_run(name: str, tokenizer: Path, tmp_path: Path) -> None:
    source = source_of(tiny("llama", hidden_size=256), tokenizer, name)
    written = Gguf().write(source, tmp_path / "model.gguf")
    assert written.notes == ()
    kinds = {item.tensor_type.name for item in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    assert kinds == {"F32", "Q2_K" if name.startswith("w2") else "Q4_K"}
    assert difference(*outputs(source, tmp_path / "model.gguf")) < written.tolerance


@pytest.mark.parametrize(
    ("dtype", "kind"), [(torch.float16, "F16"), (torch.bfloat16, "BF16")], ids=["half", "bfloat"]
)
def test_a_model_of_halves_stays_one(
    dtype: torch.dtype, kind: str, tokenizer: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    source = source_of(tiny("llama").to(dtype), tokenizer, "w32", "w8g32")
    written = Gguf().write(source, path)
    assert written.tensor_bytes == written.predicted_bytes
    read = gguf.GGUFReader(path).tensors
    assert {t.tensor_type.name for t in read} == {"F32", kind, "Q8_0"}
    embedding = next(t for t in read if t.name == "token_embd.weight")
    own = source.model.get_parameter("model.embed_tokens.weight").detach().float().numpy()
    np.testing.assert_array_equal(
        gguf.quants.dequantize(embedding.data, embedding.tensor_type), own
    )
    found, expected = outputs(source, path)
    assert difference(found, expected.float()) < ROUNDED_TOLERANCE


def test_queries_and_keys_alone_change_the_order_of_rows(tokenizer: Path) -> None:
    model = described(source_of(tiny("llama"), tokenizer, "w8").model)
    # Two key heads of 32 rows: the halves 0..15 and 16..31 of each are interleaved.
    head = np.stack([np.arange(16), np.arange(16, 32)], 1).reshape(-1)
    order = model.row_order("model.layers.0.self_attn.k_proj.weight", 64)
    np.testing.assert_array_equal(order, np.concatenate([head, head + 32]))
    plain = model.row_order("model.layers.0.self_attn.v_proj.weight", 64)
    np.testing.assert_array_equal(plain, np.arange(64))


def test_a_tied_head_is_stored_once(tokenizer: Path, tmp_path: Path) -> None:
    names = ("lm_head.weight", "model.embed_tokens.weight")
    place = gguf_names(described(tiny("llama", tie_word_embeddings=True)))
    assert place(names) == place(names[::-1]) == "token_embd.weight"
    assert place(names[:1]) == "output.weight"
    for name in ("w32", "w8g32"):
        source = source_of(tiny("llama", tie_word_embeddings=True), tokenizer, name)
        Gguf().write(source, tmp_path / "model.gguf")
        read = tensors(tmp_path / "model.gguf")
        assert "token_embd.weight" in read
        assert "output.weight" not in read


def test_what_is_mapped_up_is_said(tokenizer: Path, tmp_path: Path) -> None:
    source = source_of(tiny("llama"), tokenizer, "w8g32", "w4g32-zp")
    written = Gguf().write(source, tmp_path / "model.gguf")
    count = sum(u.packed.format.name == "w4g32-zp" for u in source.units.values())
    layer = "model.layers.0"
    assert written.notes == (
        f"w4g32-zp is stored as Q8_0, at 8 bits: {layer}.self_attn.q_proj.weight, "
        f"{layer}.self_attn.v_proj.weight, {layer}.mlp.gate_proj.weight and {count - 3} more",
    )


def test_a_window_that_llama_cpp_does_not_keep_is_said(tokenizer: Path, tmp_path: Path) -> None:
    source = source_of(tiny("mistral", sliding_window=64), tokenizer, "w8g32")
    (note,) = Gguf().write(source, tmp_path / "model.gguf").notes
    assert "looks back 64 tokens" in note


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64)

    def forward(self, input_ids: Tensor) -> Tensor:
        result: Tensor = self.layer(input_ids.float())
        return result


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: Cnn(), "model Cnn of type None has no counterpart.* llama, mistral, qwen2"),
        (lambda: tiny("gpt2"), "of type 'gpt2' has no counterpart"),
        (lambda: tiny("llama", hidden_act="gelu"), "hidden_act=gelu.* it takes silu"),
        (
            lambda: tiny("llama", rope_parameters={**LINEAR, "rope_type": "dynamic"}),
            "rope_type=dynamic.* it takes default, linear, llama3",
        ),
    ],
    ids=["no-language-model", "gpt2", "activation", "rope"],
)
def test_models_that_llama_cpp_does_not_know(model: Any, reason: str, tokenizer: Path) -> None:
    with pytest.raises(ExportError, match=reason):
        described(model())


def test_a_format_without_a_type_is_refused_before_anything_is_written(tokenizer: Path) -> None:
    source = source_of(tiny("llama"), tokenizer, "w8g32-zp")
    with pytest.raises(
        ExportError, match=r"unit model\.embed_tokens\.weight is planned as w8g32-zp"
    ):
        Gguf().check(source)


@pytest.mark.parametrize("package", ["gguf", "cyllama"])
def test_a_missing_package_is_one_line(
    package: str, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(tiny("llama"), tokenizer, "w8g32")
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mixq\[gguf\]'"):
        Gguf().check(source)
