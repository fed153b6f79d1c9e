"""What the rooms of the library log, as lines on stderr: the words of --verbose.

The library logs to Python's `logging` under the name `mixq`, so a program of one's own hears the
same with `logging.basicConfig(level=logging.DEBUG)`; without a handler it costs and says nothing.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from mixq.cli.console import remark

if TYPE_CHECKING:
    from mixq.progress import Progress

ROOT: Final = "mixq"
stages = logging.getLogger("mixq.stage")


class _Lines(logging.Handler):
    """One line for each record, with the seconds since the first."""

    def __init__(self) -> None:
        super().__init__()
        self.start_s = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        passed_s = time.monotonic() - self.start_s
        room = record.name.removeprefix(f"{ROOT}.").removeprefix("cli.")
        remark(f"[{passed_s:7.2f} s] {room}: {record.getMessage()}")


def start() -> None:
    """Show what is logged from here on; once, however often it is asked for."""
    logger = logging.getLogger(ROOT)
    if not any(isinstance(handler, _Lines) for handler in logger.handlers):
        logger.addHandler(_Lines())
        logger.setLevel(logging.DEBUG)


def stop() -> None:
    """Show nothing more."""
    logger = logging.getLogger(ROOT)
    for handler in [handler for handler in logger.handlers if isinstance(handler, _Lines)]:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)


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
