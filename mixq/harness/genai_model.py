"""GenaiLM: a folder of onnxruntime-genai, as the harness asks it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm_eval.models.onnxruntime_genai import ONNXRuntimeGenAILM

from mixq.harness.progress import Counter


class GenaiLM(ONNXRuntimeGenAILM):  # type: ignore[misc]
    """The harness's own class for such folders, one text at a time.

    It adds no token that begins a text, where the class for transformers asks the tokenizer.

    Args:
        folder: with `genai_config.json`.
        counter: is told of every answer.
        about: what to say of the model in the results.
    """

    def __init__(self, folder: Path, *, counter: Counter, about: Mapping[str, object]) -> None:
        super().__init__(str(folder))
        # Its windows of long texts are one token longer than what it scores them in, so that the
        # first token of every full window would go unscored.
        self.max_length -= 1
        self.cache_hook = counter
        self._about = dict(about)

    def loglikelihood(
        self, requests: list[Any], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Log probability of each continuation, and whether it is the most probable one."""
        self.cache_hook.begin("log-likelihoods", len(requests))
        return super().loglikelihood(requests, disable_tqdm=True)  # type: ignore[no-any-return]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        """Log probability of each text."""
        self.cache_hook.begin("perplexity", len(requests))
        return super().loglikelihood_rolling(  # type: ignore[no-any-return]
            requests, disable_tqdm=True
        )

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """What the model writes after each text."""
        self.cache_hook.begin("writing", len(requests))
        return super().generate_until(requests, disable_tqdm=True)  # type: ignore[no-any-return]

    def get_model_info(self) -> dict[str, object]:
        """Of the model, for the results."""
        return dict(self._about)
