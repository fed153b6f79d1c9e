"""TorchLM: a model in PyTorch, as the harness asks it.

The harness's own class for transformers does all of it: tokens, truncation from the left, batches
sorted by length, windows of long texts, and generation with a cache of keys and values. So an
unquantized model scores what `lm_eval --model hf` gives it, and a quantized one differs from it
by its weights alone. What is done here is what that class cannot know of a quantized model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from lm_eval.models import huggingface
from torch import nn

from mixq.harness.counted import Counted
from mixq.harness.progress import Counter

_Base: Any = huggingface.HFLM


class TorchLM(Counted, _Base):  # type: ignore[misc]
    """A causal language model of transformers, quantized or not.

    Args:
        model: with `config` and `generate`, in eval mode. It is not changed.
        tokenizer: of transformers.
        batch_size: texts that are computed together.
        counter: is told of every answer.
        about: what to say of the model in the results.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        batch_size: int,
        counter: Counter,
        about: Mapping[str, object],
    ) -> None:
        with _tied_already(model):
            super().__init__(
                counter=counter, about=about, pretrained=model, tokenizer=tokenizer,
                backend="causal", batch_size=batch_size,
            )  # fmt: skip

    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = True, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """The same, of tokens.

        The harness computes tokens that two requests share once, but lm_eval 0.4.13 then reads
        the wrong rows for the shorter of two continuations that end at the same place. Where
        there are such requests, nothing is shared.
        """
        lengths: dict[tuple[int, ...], int] = {}
        alike = all(
            lengths.setdefault((*context, *continuation[:-1]), len(continuation))
            == len(continuation)
            for _, context, continuation in requests
        )
        shared: bool = self.logits_cache
        self.logits_cache: bool = shared and alike
        try:
            return super()._loglikelihood_tokens(  # type: ignore[no-any-return]
                requests, disable_tqdm=True, override_bs=override_bs
            )
        finally:
            self.logits_cache = shared


@contextlib.contextmanager
def _tied_already(model: nn.Module) -> Iterator[None]:
    """The harness ties weights, but packed ones are tied as they were and are no parameters."""
    model.__dict__["tie_weights"] = lambda *_args, **_options: None
    try:
        yield
    finally:
        del model.__dict__["tie_weights"]
