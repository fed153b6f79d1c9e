"""Pieces: tokenizers made by SentencePiece (BPE with byte fallback), as llama.cpp scores them.

transformers joins the pair of pieces whose merge comes first, llama.cpp the pair that makes the
piece of highest score. The two are the same if merges are sorted by the piece that they make and
hold every pair that makes one, as transformers' converter from SentencePiece writes them
(`generate_merges` in tokenization_utils_sentencepiece.py); so that is checked, and the score is
minus the place.
"""

from __future__ import annotations

from typing import Any, Final

from mixq.errors import ExportError
from mixq.files import one_line

SPACE: Final = "\u2581"
LONGEST_PIECE: Final = 4096
BYTE: Final = "<0x{:02X}>"


def scores(data: dict[str, Any], where: str) -> dict[str, float]:
    """Score of every piece: minus the place of its first merge, 0 for pieces that none makes.

    Raises:
        ExportError: if merges are in another order, or llama.cpp would join other pairs.
    """
    vocabulary: dict[str, int] = data["model"]["vocab"]
    missing = [BYTE.format(byte) for byte in range(256) if BYTE.format(byte) not in vocabulary]
    if missing:
        raise ExportError(f"{where} has no token {missing[0]} for a byte, which llama.cpp needs")
    merges = [_pair(item) for item in data["model"]["merges"]]
    places: dict[str, float] = {}
    last = None
    for place, (left, right) in enumerate(merges):
        made = left + right
        if made != last and made in places:
            raise _other_order(where, made)
        places.setdefault(made, -float(place + 1))
        last = made
    known = set(merges)
    whole = {item["content"] for item in data.get("added_tokens") or []}
    for made in vocabulary.keys() - whole:
        if len(made) > LONGEST_PIECE:  # cutting it everywhere would take its square
            raise _other_order(where, one_line(made, 60))
        for cut in range(1, len(made)):
            pair = (made[:cut], made[cut:])
            if pair not in known and all(part in vocabulary for part in pair):
                raise _other_order(where, made)
    return places


def prefixes_space(data: dict[str, Any], where: str) -> bool:
    """Whether a space is put before every text.

    Raises:
        ExportError: if text is changed in a way that llama.cpp does not have.
    """
    normalizer = data.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer] if normalizer else [])
    replaced = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    pre = data.get("pre_tokenizer") or {}
    if steps and steps[-1] == replaced and pre.get("type") in (None, "Split"):
        before = steps[:-1]
        if before in ([], [{"type": "Prepend", "prepend": SPACE}]):
            return bool(before)
    is_whole = pre.get("type") == "Metaspace" and not pre.get("split", True)
    if not steps and is_whole and pre.get("replacement") == SPACE:
        return pre.get("prepend_scheme") != "never"
    raise ExportError(
        f"{where} changes text by {one_line(normalizer, 80)} and {one_line(pre, 80)}, which "
        "mixq has no word for in GGUF; convert the tokenizer with llama.cpp's "
        "convert_hf_to_gguf.py"
    )


def _pair(item: Any) -> tuple[str, str]:
    left, right = item.split(" ") if isinstance(item, str) else item
    return left, right


def _other_order(where: str, made: str) -> ExportError:
    return ExportError(
        f"{where} does not join pieces as SentencePiece does (see {one_line(made, 30)!r}), so "
        "llama.cpp would read other tokens; convert the tokenizer with llama.cpp's "
        "convert_hf_to_gguf.py"
    )
