"""What onnxruntime-genai cannot take is refused in one line, and leaves nothing behind."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mixq.errors import ExportError, MissingExtraError
from mixq.export.genai import builder
from mixq.export.genai.genai import Genai
from mixq.export.source import Source

from .conftest import SIZES, model_of, source_of, transformers


def unknown(tokenizer: Path) -> Source:
    config = transformers.GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=264)
    return source_of(transformers.GPT2LMHeadModel(config).eval(), tokenizer, "w32")


def headless(tokenizer: Path) -> Source:
    config = transformers.LlamaConfig(**SIZES)
    return source_of(transformers.LlamaModel(config).eval(), tokenizer, "w32")


def without_folder(tokenizer: Path) -> Source:
    return source_of(model_of("tied"), None)


def without_vocabulary(tokenizer: Path) -> Source:
    half = tokenizer / "half"
    half.mkdir(exist_ok=True)
    (half / "tokenizer_config.json").write_text("{}")
    return source_of(model_of("tied"), half)


def with_a_new_bias(tokenizer: Path) -> Source:
    source = source_of(model_of("tied"), tokenizer)
    layer: Any = source.restored.model.layers[0]  # type: ignore[union-attr,index]
    layer.self_attn.q_proj.bias = nn.Parameter(torch.ones(96))
    return source


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (unknown, ("GPT2LMHeadModel", "LlamaForCausalLM, ", "Phi3ForCausalLM", "choose another")),
        (headless, ("LlamaModel", "LlamaForCausalLM")),
        (without_folder, ("no folder is known", "--tokenizer FOLDER")),
        (without_vocabulary, ("/half", "--tokenizer FOLDER")),
        (with_a_new_bias, ("layers.0.self_attn.q_proj.bias", "bias correction")),
    ],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_is_refused_before_anything_is_written(
    tokenizer: Path, tmp_path: Path, make: Any, parts: tuple[str, ...]
) -> None:
    source = make(tokenizer)
    for refuse in (Genai().check, lambda s: Genai().write(s, tmp_path / "folder")):
        with pytest.raises(ExportError) as caught:
            refuse(source)
        message = str(caught.value)
        assert "\n" not in message
        assert [part for part in parts if part not in message] == []
    assert list(tmp_path.iterdir()) == []


def test_the_builder_s_own_refusal_is_one_line(tokenizer: Path, tmp_path: Path) -> None:
    """Phi-3 whose original context is another, but without the factors of longrope."""
    config = transformers.Phi3Config(**SIZES, original_max_position_embeddings=64)
    source = source_of(transformers.Phi3ForCausalLM(config).eval(), tokenizer)
    with pytest.raises(ExportError, match=r"refused the model: KeyError: 'multi_cache'; choose"):
        Genai().write(source, tmp_path / "folder")
    assert list((tmp_path / "folder").iterdir()) == []


@pytest.mark.parametrize("package", builder.PACKAGES)
def test_a_missing_package_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, tokenizer: Path, package: str
) -> None:
    monkeypatch.setattr(
        builder, "find_spec", lambda name: None if name == package else find_spec(name)
    )
    source = without_folder(tokenizer)
    with pytest.raises(MissingExtraError, match=r"pip install 'mixq\[genai\]'"):
        Genai().check(source)


class TestDamaged:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "genai_config.json").write_text(
            '{"model": {"decoder": {"num_key_value_heads": 1, "head_size": 32}}}'
        )
        (tmp_path / "model.onnx").write_bytes(b"not a graph")
        return tmp_path

    @pytest.mark.parametrize(
        ("file", "text", "reason"),
        [
            ("model.onnx", None, "does not load in ONNX Runtime"),
            ("genai_config.json", None, "is not a file"),
            ("genai_config.json", "{", "is not valid JSON"),
            ("genai_config.json", '{"model": []}', "no heads of a decoder"),
            ("genai_config.json", '{"model": {"decoder": {}}}', "no heads of a decoder"),
        ],
    )
    def test_is_refused(self, folder: Path, file: str, text: str | None, reason: str) -> None:
        if text is None and file != "model.onnx":
            (folder / file).unlink()
        elif text is not None:
            (folder / file).write_text(text)
        with pytest.raises(ExportError, match=reason) as caught:
            Genai().open(folder)
        assert "\n" not in str(caught.value)


def test_padding_on_the_left_is_refused() -> None:
    from mixq.export.genai.session import _ids_and_mask

    ids = torch.ones(2, 3, dtype=torch.int64)
    with pytest.raises(ExportError, match="padded on its left"):
        _ids_and_mask({"input_ids": ids, "attention_mask": torch.tensor([[1, 1, 1], [0, 1, 1]])})


def test_it_is_a_runtime() -> None:
    from mixq.export.runtime import Runtime

    runtime: Runtime = Genai(activations="float")
    assert (runtime.name, runtime.extra, runtime.is_folder) == ("onnxruntime-genai", "genai", True)
