"""Text as calibration data of the language models in Hugging Face folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from mixq.batch import Batch
from mixq.calibration import Calibration
from mixq.errors import CalibrationError, SourceError
from mixq.files import read_bounded
from mixq.sources.huggingface import import_transformers, quiet
from mixq.sources.loaded import LoadedModel
from mixq.sources.reason import reason

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH_SAMPLES: Final = 8
ENCODER_TOKENS: Final = 64
"""An encoder gets one line per sample, cut to this many tokens."""
CAUSAL_TOKENS: Final = 128
"""A causal language model gets the whole text in blocks of this many tokens."""
TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer.model", "vocab.*", "*.model")
TEXT_BYTES: Final = 64 * 2**20
"""Largest text file; far more than calibration needs, small enough to tokenize in memory."""


def load_text(path: Path, loaded: LoadedModel) -> Calibration:
    """Calibration from the non-empty lines of a text file, in batches of 8 samples.

    An encoder gets `input_ids` and what else its tokenizer makes, a line per sample, padded to
    the longest of the batch. A causal language model gets `input_ids` in full blocks.

    Raises:
        SourceError: if the model has no tokenizer, or the file cannot be read.
        CalibrationError: if the file has no text.
        MissingExtraError: without transformers.
    """
    if loaded.folder is None:
        raise SourceError(
            f"calibration {str(path)!r} is text, but {loaded.name!r} brings no tokenizer; pass a "
            "Hugging Face folder as model, or calibration as .safetensors or .npz"
        )
    lines = _read_lines(path)
    tokenizer = _load_tokenizer(loaded.folder)
    if _is_causal(loaded.model):
        return Calibration.of(_blocks(tokenizer, lines))
    return Calibration.of(_padded(tokenizer, lines))


def _blocks(tokenizer: PreTrainedTokenizerBase, lines: list[str]) -> list[Batch]:
    """All lines as one text, in blocks; a text shorter than one block is one sample."""
    ids: Tensor = tokenizer("\n".join(lines), return_tensors="pt", verbose=False)["input_ids"][0]
    if len(ids) == 0:
        raise CalibrationError("the tokenizer makes no token of the text; pass another text")
    length = min(CAUSAL_TOKENS, len(ids))
    blocks = ids[: len(ids) // length * length].view(-1, length)
    return [{"input_ids": part} for part in torch.split(blocks, BATCH_SAMPLES)]


def _padded(tokenizer: PreTrainedTokenizerBase, lines: list[str]) -> list[Batch]:
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise CalibrationError(
                "the tokenizer has no padding token, so lines of different lengths make no batch; "
                "pass calibration as .safetensors"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return [
        dict(
            tokenizer(
                lines[start : start + BATCH_SAMPLES],
                padding=True,
                truncation=True,
                max_length=ENCODER_TOKENS,
                return_tensors="pt",
            )
        )
        for start in range(0, len(lines), BATCH_SAMPLES)
    ]


def _read_lines(path: Path) -> list[str]:
    text = read_bounded(path, TEXT_BYTES, SourceError, "calibration text")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise CalibrationError(
            f"calibration {str(path)!r} has no non-empty line; pass a text with one sample a line"
        )
    return lines


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    # Without its files transformers 5 makes a tokenizer that knows no word.
    if not any(path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)):
        raise SourceError(
            f"folder {str(folder)!r} has no tokenizer; pass calibration as .safetensors or .npz"
        )
    transformers = import_transformers()
    try:
        with quiet(transformers):
            tokenizer: PreTrainedTokenizerBase = transformers.AutoTokenizer.from_pretrained(
                str(folder.resolve()), local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # the tokenizers library raises nothing more special than that
        raise SourceError(
            f"folder {str(folder)!r} has no tokenizer that loads: {reason(error)}; pass "
            "calibration as .safetensors or .npz"
        ) from error
    return tokenizer


def _is_causal(model: object) -> bool:
    """Whether transformers lists the model's class as a causal language model."""
    from transformers.models.auto import modeling_auto

    names = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    return type(model).__name__ in {
        name for entry in names for name in ((entry,) if isinstance(entry, str) else entry)
    }
