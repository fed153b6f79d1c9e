"""Counted: how many requests of a task are answered."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mixq.progress import Progress, silent


class Counter:
    """Takes the place of the harness's cache of answers, which is told of every answer.

    Nothing is kept: the same text given to two models is two questions.

    Args:
        name: of the model, for people.
        progress: is told of every answer.
    """

    dbdict = None

    def __init__(self, name: str, progress: Progress = silent) -> None:
        self._name, self._progress = name, progress
        self._stage, self._done, self._total = "", 0, 0

    def begin(self, kind: str, requests: int) -> None:
        """So many requests of a kind will be answered."""
        self._stage = f"evaluating {self._name}, {kind}"
        self._done, self._total = 0, requests
        self._progress(self._stage, 0, requests)

    def add_partial(self, _kind: str, _request: Iterable[Any], _answer: object) -> None:
        """One is answered."""
        self._done = min(self._done + 1, self._total)
        self._progress(self._stage, self._done, self._total)
