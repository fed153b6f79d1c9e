"""LlamaCpp: a GGUF file that llama.cpp has loaded into this process.

The binding is cyllama, see docs/decisions/0026-gguf.md. Attention is computed without flash
attention and the cache of keys and values holds 32-bit floats, so that what differs from the
applied plan is llama.cpp's matrix products alone: they round activations to 8 bits in blocks of
32 columns (256 for K types) wherever weights are quantized.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mixq.batch import Batch, describe
from mixq.errors import ExportError, MissingExtraError
from mixq.files import one_line

GGML_TYPE_F32 = 0
FLASH_ATTENTION_OFF = 0
CONTEXT_STEP = 256


def binding() -> Any:
    """The module of llama.cpp in cyllama, which has no types and logs nothing.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        from cyllama.llama import llama_cpp
    except ImportError as error:
        raise MissingExtraError("cyllama", "gguf", "llama.cpp") from error
    llama_cpp.disable_logging()
    return llama_cpp


@final
class LlamaCpp:
    """A `Session` of `mixq.export.runtime`.

    Args:
        path: a GGUF file.
        threads: of the matrix products.

    Raises:
        ExportError: if llama.cpp does not load it.
        MissingExtraError: if llama.cpp is not installed.
    """

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        self._library = library = binding()
        params = library.LlamaModelParams()
        params.n_gpu_layers = 0
        try:
            self._model = _model_class(library)(str(path), params, verbose=False)
        except (ValueError, RuntimeError, OSError) as error:
            raise ExportError(
                f"llama.cpp does not load {one_line(path)}: {one_line(error)}"
            ) from error
        self._threads = threads
        self._context: Any = None

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return int(self._model.n_vocab)

    def run(self, batch: Batch) -> dict[str, Tensor]:
        """Logits of shape (samples, tokens, vocabulary) of every position.

        Raises:
            ExportError: if the batch is not `input_ids`, with a mask that hides nothing but the
                end of a sample or none.
        """
        if not isinstance(batch, dict) or not {"input_ids"} <= set(batch) <= {
            "input_ids", "attention_mask",
        }:  # fmt: skip
            raise ExportError(
                f"llama.cpp takes input_ids and attention_mask, but the batch is "
                f"[{describe(batch)}]; calibrate on those"
            )
        mask = batch.get("attention_mask")
        if mask is not None and bool((mask[:, 1:] > mask[:, :-1]).any()):
            raise ExportError(
                "a sample is padded on its left, which llama.cpp has no word for; pad on the right"
            )
        return {"logits": torch.stack([self.logits(row.tolist()) for row in batch["input_ids"]])}

    def logits(self, tokens: Sequence[int]) -> Tensor:
        """Logits of shape (tokens, vocabulary) of one text."""
        self._decode(tokens, start=0)
        rows = [self._context.get_logits_ith(index) for index in range(len(tokens))]
        return torch.from_numpy(np.array(rows, dtype=np.float32))

    def perplexity(self, windows: Tensor) -> float:
        """Exponential of the mean negative log likelihood of each next token.

        Args:
            windows: token ids of shape (windows, tokens); each starts anew.
        """
        losses = []
        for window in windows:
            logits = self.logits(window.tolist())[:-1].double()
            losses.append(functional.cross_entropy(logits, window[1:].long()).item())
        return math.exp(min(sum(losses) / len(losses), 50.0))

    def generate(self, prompt: str, tokens: int) -> str:
        """The most likely continuation of a text, token by token.

        Args:
            prompt: what to go on from; special tokens in it are read as such.
            tokens: how many to add at most.
        """
        vocabulary = self._model.get_vocab()
        seen = [int(t) for t in vocabulary.tokenize(prompt, add_special=False, parse_special=True)]
        added: list[int] = []
        start, new = 0, seen
        while len(added) < tokens:
            self._decode(new, start=start, room=len(seen) + tokens)
            start += len(new)
            token = int(np.argmax(self._context.get_logits_ith(len(new) - 1)))
            if vocabulary.is_eog(token):
                break
            added.append(token)
            new = [token]
        return str(vocabulary.detokenize(added))

    def tokenize(self, text: str) -> list[int]:
        """The token ids of a text, without special tokens around it."""
        vocabulary = self._model.get_vocab()
        return [int(t) for t in vocabulary.tokenize(text, add_special=False, parse_special=False)]

    def close(self) -> None:
        """Free the model; nothing can be run afterwards."""
        if self._context is not None:
            self._context.close()
            self._context = None
        self._model.close()

    def _decode(self, tokens: Sequence[int], *, start: int, room: int = 0) -> None:
        """Run tokens that follow `start` others, which the cache of keys and values holds."""
        outside = [token for token in tokens if not 0 <= token < self.vocabulary]
        if outside:
            raise ExportError(
                f"token {outside[0]} is not in 0..{self.vocabulary - 1}, what the file has"
            )
        if start == 0:
            self._make_room(max(room, len(tokens)))
            self._context.kv_cache_clear()
        batch = self._library.LlamaBatch(n_tokens=len(tokens), embd=0, n_seq_max=1)
        for index, token in enumerate(tokens):
            batch.add(token, start + index, [0], True)
        status = self._context.decode(batch)
        batch.close()
        if status != 0:
            raise ExportError(f"llama.cpp does not run {len(tokens)} tokens (status {status})")

    def _make_room(self, tokens: int) -> None:
        if self._context is not None and self._context.n_ctx >= tokens:
            return
        # llama.cpp rounds up to this anyway, but not the batch, and aborts on larger batches.
        tokens = -(-tokens // CONTEXT_STEP) * CONTEXT_STEP
        params = self._library.LlamaContextParams()
        params.n_ctx = params.n_batch = params.n_ubatch = tokens
        params.n_threads = params.n_threads_batch = self._threads
        params.type_k = params.type_v = GGML_TYPE_F32
        params.flash_attn_type = FLASH_ATTENTION_OFF
        if self._context is not None:
            self._context.close()
        self._context = self._library.LlamaContext(self._model, params, verbose=False)


def _model_class(library: Any) -> Any:
    # cyllama 0.2.18 asks its model for this when logits are read, and never set it.
    size = property(lambda model: model.get_vocab().n_vocab)
    return type("Model", (library.LlamaModel,), {"n_vocab": size})
