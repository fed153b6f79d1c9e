"""Stages of a command and their times, logged for --verbose."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mixq.progress import Progress

stages = logging.getLogger("mixq.stage")


def timed(report: Progress) -> Progress:
    """Progress that also logs each stage when it is finished, with its time."""
    started: dict[str, float] = {}

    def told(stage: str, done: int, total: int) -> None:
        report(stage, done, total)
        now = time.monotonic()
        started.setdefault(stage, now)
        if done == total:
            stages.info("%s: %d of %d in %.2f s", stage, done, total, now - started.pop(stage))

    return told
