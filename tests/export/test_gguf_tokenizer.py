"""The tokenizer in the file reads text as the folder's tokenizer does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mixq.errors import ExportError
from mixq.export.gguf import Gguf
from mixq.export.gguf.pieces import prefixes_space
from mixq.export.gguf.tokenizer import _SPLITS, split_name, tokenizer_json

from .gguf_models import (
    TEXTS,
    VOCABULARY,
    pieces_folder,
    source_of,
    tiny,
    tokenizer_folder,
)

gguf: Any = pytest.importorskip("gguf", reason="an extra")
pytest.importorskip("cyllama", reason="an extra")
pytest.importorskip("transformers", reason="an extra")
tokenizers: Any = pytest.importorskip("tokenizers", reason="an extra")

TEXT = f"{TEXTS[1]} <|end|> WE'RE 1234567 naïve 🦙 \t\n\n x  y {TEXTS[0]}"
BYTES = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def split_at(pattern: str) -> Any:
    return tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")


def steps_of(name: str) -> list[Any]:
    steps = next(steps for steps, known in _SPLITS.items() if known == name)
    made = {
        "ByteLevel": BYTES,
        "ByteLevel+regex": tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
        "Digits": tokenizers.pre_tokenizers.Digits(individual_digits=True),
    }
    return [made[step] if step in made else split_at(step) for step in steps]


@pytest.mark.parametrize("name", _SPLITS.values())
def test_llama_cpp_splits_text_as_the_tokenizer_does(name: str, tmp_path: Path) -> None:
    folder = tokenizer_folder(tmp_path / "folder", *steps_of(name))
    path = tmp_path / "model.gguf"
    Gguf().write(source_of(tiny("llama"), folder, "w8g32"), path)
    reader = gguf.GGUFReader(path)
    assert reader.fields["tokenizer.ggml.pre"].contents() == name
    session = Gguf().open(path)
    expected = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in (*TEXTS, TEXT.replace("<|end|>", "")):
        assert session.tokenize(text) == expected.encode(text, add_special_tokens=False).ids
    assert session.generate("The quick", 3) == session.generate("The quick", 3)
    session.close()


def test_llama_cpp_joins_pieces_as_the_tokenizer_does(tmp_path: Path) -> None:
    folder = pieces_folder(tmp_path / "folder")
    path = tmp_path / "model.gguf"
    Gguf().write(source_of(tiny("llama", vocab_size=512), folder, "w8g32"), path)
    reader = gguf.GGUFReader(path)
    assert reader.fields["tokenizer.ggml.model"].contents() == "llama"
    kinds = reader.fields["tokenizer.ggml.token_type"].contents()
    assert [index for index, kind in enumerate(kinds) if kind == 6] == list(range(3, 259))  # bytes
    session = Gguf().open(path)
    expected = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    mixed = "jumps jumps  jumps, 99,345 xjagen Sylterquick overlazy"
    for text in (*TEXTS, TEXT.replace("<|end|>", ""), "the", "", mixed):
        # llama.cpp gives no token for no text, and transformers the space before it.
        ids = expected.encode(text, add_special_tokens=False).ids if text else []
        assert session.tokenize(text) == ids
    session.close()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: {"merges": m["merges"][:-1]}, "does not join pieces as SentencePiece does"),
        (lambda m: {"merges": [*m["merges"], m["merges"][0]]}, "does not join pieces"),
        (
            lambda m: {"vocab": {k: v for k, v in m["vocab"].items() if k != "<0x41>"}},
            "has no token <0x41> for a byte",
        ),
    ],
    ids=["a-pair-is-missing", "another-order", "a-byte-is-missing"],
)
def test_other_pieces_are_refused(change: Any, reason: str, tmp_path: Path) -> None:
    data = tokenizer_json(pieces_folder(tmp_path))
    model = {**data["model"], **change(data["model"])}
    with pytest.raises(ExportError, match=reason):
        split_name({**data, "model": model}, "tokenizer.json")


METASPACE = {"type": "Metaspace", "replacement": "\u2581", "split": False}
SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}


@pytest.mark.parametrize(
    ("normalizer", "pre", "prefixed"),
    [
        (SPACES, None, False),
        (SPACES, {"type": "Split", "pattern": {"String": " "}}, False),
        (None, {**METASPACE, "prepend_scheme": "first"}, True),
        (None, {**METASPACE, "prepend_scheme": "never"}, False),
        ({"type": "NFKC"}, None, None),
        (None, {**METASPACE, "split": True}, None),
    ],
    ids=["gemma", "gemma-split", "metaspace", "metaspace-never", "nfkc", "words"],
)
def test_the_space_before_a_text(
    normalizer: Any, pre: Any, prefixed: bool | None, tmp_path: Path
) -> None:
    data = {"normalizer": normalizer, "pre_tokenizer": pre}
    if prefixed is None:
        with pytest.raises(ExportError, match=r"tokenizer\.json changes text by"):
            prefixes_space(data, "tokenizer.json")
    else:
        assert prefixes_space(data, "tokenizer.json") is prefixed


def test_metadata(tmp_path: Path) -> None:
    folder = tokenizer_folder(tmp_path / "folder")
    path = tmp_path / "model.gguf"
    Gguf().write(source_of(tiny("llama"), folder, "w8g32"), path)
    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    kinds = fields["tokenizer.ggml.token_type"].contents()
    assert len(tokens) == len(kinds) == VOCABULARY
    assert (tokens[0], kinds[0]) == ("<|end|>", gguf.TokenType.CONTROL)
    unused = (
        VOCABULARY
        - tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    )
    assert kinds.count(gguf.TokenType.UNUSED) == unused > 0
    assert tokens[-1] == f"[PAD{VOCABULARY - 1}]"
    assert fields["tokenizer.ggml.eos_token_id"].contents() == 0
    assert fields["tokenizer.ggml.add_bos_token"].contents() is False
    assert fields["tokenizer.chat_template"].contents() == "{{ messages }}"


def test_no_folder_is_refused() -> None:
    with pytest.raises(ExportError, match=r"none is known; pass .* `--tokenizer FOLDER`"):
        tokenizer_json(None)


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"has no tokenizer\.json; pass .* `--tokenizer FOLDER`"):
        Gguf().check(source_of(tiny("llama"), tmp_path, "w8g32"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": {"type": "Unigram"}}, "type 'Unigram', but mixq writes BPE only"),
        (
            {"pre_tokenizer": {"type": "Whitespace"}},
            "llama.cpp has no name for that mixq knows; it knows those of gpt-2, smollm, qwen2",
        ),
    ],
    ids=["unigram", "split"],
)
def test_a_tokenizer_that_llama_cpp_would_read_otherwise_is_refused(
    change: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    data = {**tokenizer_json(tokenizer_folder(tmp_path)), **change}
    with pytest.raises(ExportError, match=reason):
        split_name(data, "tokenizer.json")


def test_another_models_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = tokenizer_folder(tmp_path / "folder")
    source = source_of(tiny("llama", vocab_size=256), folder, "w8g32")
    with pytest.raises(ExportError, match=r"has a token \d+, but the model has 256 tokens"):
        Gguf().write(source, tmp_path / "model.gguf")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": 1}'])
def test_a_damaged_tokenizer_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(ExportError, match=r"tokenizer.json"):
        tokenizer_json(tmp_path)


def test_json_is_not_changed_by_reading(tmp_path: Path) -> None:
    folder = tokenizer_folder(tmp_path)
    assert tokenizer_json(folder) == json.loads((folder / "tokenizer.json").read_text("utf-8"))
