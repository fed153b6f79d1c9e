"""Tokenizer: a Hugging Face tokenizer.json as metadata of a GGUF file.

Byte-level BPE (`gpt2`) and SentencePiece's BPE with byte fallback (`llama`). llama.cpp splits text
by rules of its own that a file names (`pre`; see `llama-vocab.cpp`), so a tokenizer that splits in
another way is refused: it would load, and read other tokens than the model was made for.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Final

from mixq.errors import ExportError
from mixq.export.gguf.pieces import BYTE, prefixes_space, scores
from mixq.files import one_line, parse_json, read_bounded

LIMIT_BYTES: Final = 1 << 28
MISSING: Final = "pass a Hugging Face folder that has one with `--tokenizer FOLDER`"

_CONTRACTIONS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST: Final = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS: Final = {
    ("ByteLevel+regex",): "gpt-2",
    ("Digits", "ByteLevel+regex"): "smollm",
    (_CONTRACTIONS + r"\p{N}" + _REST, "ByteLevel"): "qwen2",
    (_CONTRACTIONS + r"\p{N}{1,3}" + _REST, "ByteLevel"): "llama-bpe",
}
"""llama.cpp's names of ways to split text, by the steps of `pre_tokenizer`."""


def add_tokenizer(writer: Any, folder: Path | None, vocabulary: int) -> None:
    """Write the vocabulary, merges, special tokens and chat template of a folder.

    Args:
        writer: a `gguf.GGUFWriter`.
        folder: a Hugging Face folder.
        vocabulary: tokens of the model; those that the tokenizer lacks are marked as unused.

    Raises:
        ExportError: if there is no tokenizer, or none that llama.cpp has.
    """
    import gguf

    data = tokenizer_json(folder)
    assert folder is not None
    where = one_line(folder / "tokenizer.json")
    pre = split_name(data, where)
    is_pieces = bool(data["model"].get("byte_fallback"))
    try:
        names: dict[int, str] = {int(i): str(token) for token, i in data["model"]["vocab"].items()}
        added = {int(item["id"]): item for item in data.get("added_tokens") or []}
        names |= {index: str(item["content"]) for index, item in added.items()}
        specials = {index for index, item in added.items() if item["special"]}
        largest = max(names)
    except _WRONG as error:
        raise _no_tokenizer(where) from error
    if largest >= vocabulary:
        raise ExportError(
            f"{where} has a token {largest}, but the model has {vocabulary} tokens; "
            "pass the model's own tokenizer with `--tokenizer FOLDER`"
        )
    kinds = gguf.TokenType
    bytes_ = {BYTE.format(byte) for byte in range(256)} if is_pieces else set()

    def kind(index: int) -> int:
        if index in added:
            return int(kinds.CONTROL if index in specials else kinds.USER_DEFINED)
        if index not in names:
            return int(kinds.UNUSED)
        return int(kinds.BYTE if names[index] in bytes_ else kinds.NORMAL)

    writer.add_tokenizer_model("llama" if is_pieces else "gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([names.get(index, f"[PAD{index}]") for index in range(vocabulary)])
    writer.add_token_types([kind(index) for index in range(vocabulary)])
    if is_pieces:
        found = scores(data, where)
        writer.add_token_scores([found.get(names.get(i, ""), 0.0) for i in range(vocabulary)])
        writer.add_add_space_prefix(prefixes_space(data, where))
    _add_special(writer, folder, vocabulary, merges=not is_pieces)


def tokenizer_json(folder: Path | None) -> dict[str, Any]:
    """The parsed tokenizer.json of a folder.

    Raises:
        ExportError: if there is none.
    """
    if folder is None:
        raise ExportError(f"GGUF files hold the model's tokenizer, and none is known; {MISSING}")
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ExportError(f"folder {one_line(folder)} has no tokenizer.json; {MISSING}")
    data = parse_json(
        read_bounded(path, LIMIT_BYTES, ExportError, "tokenizer"), ExportError, str(path)
    )
    if not isinstance(data, dict) or not isinstance(data.get("model"), dict):
        raise ExportError(f"{one_line(path)} is no tokenizer of transformers; {MISSING}")
    return data


def split_name(data: dict[str, Any], where: str) -> str:
    """llama.cpp's name of the way in which a tokenizer splits text.

    Raises:
        ExportError: if it has none.
    """
    try:
        return _split_name(data, where)
    except ExportError:
        raise
    except _WRONG as error:
        raise _no_tokenizer(where) from error


_WRONG: Final = (TypeError, AttributeError, LookupError, ValueError)
"""What a tokenizer.json raises whose values are of other kinds than transformers writes."""


def _no_tokenizer(where: str) -> ExportError:
    return ExportError(f"{where} is no tokenizer that transformers wrote; {MISSING}")


def _split_name(data: dict[str, Any], where: str) -> str:
    model = data["model"]
    if model.get("type") != "BPE":
        raise ExportError(
            f"{where} is a tokenizer of type {model.get('type')!r:.20}, but mixq writes BPE only; "
            "convert the tokenizer with llama.cpp's convert_hf_to_gguf.py"
        )
    if model.get("byte_fallback"):
        scores(data, where)
        prefixes_space(data, where)
        return "default"
    pre = data.get("pre_tokenizer") or {}
    steps = tuple(_step(item) for item in pre.get("pretokenizers", [pre]))
    if steps not in _SPLITS:
        raise ExportError(
            f"{where} splits text by {one_line(steps, 120)}, which llama.cpp has no name for that "
            f"mixq knows; it knows those of {', '.join(_SPLITS.values())}"
        )
    return _SPLITS[steps]


def _step(item: dict[str, Any]) -> str:
    """One step of a pre-tokenizer, with what it does to text."""
    kind = str(item.get("type"))
    if kind == "ByteLevel" and not item.get("add_prefix_space"):
        return "ByteLevel+regex" if item.get("use_regex", True) else "ByteLevel"
    if kind == "Digits" and item.get("individual_digits"):
        return kind
    pattern = item.get("pattern")
    if kind == "Split" and item.get("behavior") == "Isolated" and isinstance(pattern, dict):
        return str(pattern.get("Regex"))
    return str(item)


def _add_special(writer: Any, folder: Path, vocabulary: int, *, merges: bool) -> None:
    import gguf

    # It logs what it finds, which is no warning of ours.
    log = logging.getLogger("gguf.vocab")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        special = gguf.SpecialVocab(folder, load_merges=merges, n_vocab=vocabulary)
        for kind in ("bos", "eos"):  # left out, llama.cpp would go by the way of splitting
            special.add_special_token.setdefault(kind, False)
        special.add_to_gguf(writer, quiet=True)
    finally:
        log.setLevel(before)
