"""Counted: what both classes of the harness say of themselves and of their progress."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mixq.harness.progress import Counter


class Counted:
    """Stands before a class of the harness, whose own bars it hides.

    Args:
        counter: is told of every answer.
        about: what to say of the model in the results.
        given, options: of the class behind it.
    """

    def __init__(
        self, *given: Any, counter: Counter, about: Mapping[str, object], **options: Any
    ) -> None:
        super().__init__(*given, **options)
        self.cache_hook = counter
        self._about = dict(about)

    def loglikelihood(
        self, requests: list[Any], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Log probability of each continuation, and whether it is the most probable one."""
        return self._asked("loglikelihood", "log-likelihoods", requests)  # type: ignore[no-any-return]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        """Log probability of each text."""
        return self._asked("loglikelihood_rolling", "perplexity", requests)  # type: ignore[no-any-return]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """What the model writes after each text."""
        return self._asked("generate_until", "writing", requests)  # type: ignore[no-any-return]

    def get_model_info(self) -> dict[str, object]:
        """Of the model, for the results."""
        return dict(self._about)

    def _asked(self, method: str, stage: str, requests: list[Any]) -> Any:
        self.cache_hook.begin(stage, len(requests))
        return getattr(super(), method)(requests, disable_tqdm=True)
