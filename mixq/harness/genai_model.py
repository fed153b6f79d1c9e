"""GenaiLM: a folder of onnxruntime-genai, as the harness asks it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lm_eval.models import onnxruntime_genai
from lm_eval.models.utils import has_bos_prefix

from mixq.harness.counted import Counted
from mixq.harness.progress import Counter

_Base: Any = onnxruntime_genai.ONNXRuntimeGenAILM


class GenaiLM(Counted, _Base):  # type: ignore[misc]
    """The harness's own class for such folders, one text at a time.

    Tokens and windows are those of its class for transformers, so that both models beside each
    other are asked the same: this one would add no token that begins a text, and would leave the
    first token of every full window unscored.

    Args:
        folder: with `genai_config.json`.
        counter: is told of every answer.
        about: what to say of the model in the results.
    """

    def __init__(self, folder: Path, *, counter: Counter, about: Mapping[str, object]) -> None:
        super().__init__(str(folder), counter=counter, about=about)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_options: Any
    ) -> list[int]:
        """Tokens of a text, with what the tokenizer puts before it unless it is there."""
        words: Any = self.tokenizer
        if add_special_tokens is None and has_bos_prefix(
            string, words.decode(self.prefix_token_id)
        ):
            add_special_tokens = False
        options = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        ids: list[int] = words.encode(string, **options)
        return ids

    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = True, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        answers = []
        for asked, context, continuation in requests:
            tokens = (context + continuation)[-(self.max_length + 1) :][:-1]
            logits = torch.as_tensor(self._forward_logits(tokens))[-len(continuation) :]
            following = torch.tensor(continuation)
            chosen = logits.log_softmax(-1).gather(1, following[:, None])
            greedy = bool((logits.argmax(-1) == following).all())
            answers.append((float(chosen.sum()), greedy))
            if asked is not None:
                self.cache_hook.add_partial("loglikelihood", asked, answers[-1])
        return answers
