"""What the rooms of the library log, as lines on stderr: the words of --verbose.

The library logs to Python's `logging` under the name `mixq`, so a program of one's own hears the
same with `logging.basicConfig(level=logging.DEBUG)`; without a handler it costs and says nothing.
"""

from __future__ import annotations

import logging
import os
import time
import traceback
from typing import Final

from mixq.cli.console import remark

ROOT: Final = "mixq"
log = logging.getLogger(ROOT)


class _Lines(logging.Handler):
    """One line for each record, with the seconds since the first."""

    def __init__(self) -> None:
        super().__init__()
        self.start_s = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        passed_s = time.monotonic() - self.start_s
        room = record.name.removeprefix(f"{ROOT}.")
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


def tell_origin(error: BaseException) -> None:
    """Log where in mixq an error comes from, and what was behind it; the way to a bug's cause."""
    chain: BaseException | None = error
    while chain is not None:
        frames = traceback.extract_tb(chain.__traceback__)
        own = [frame for frame in frames if f"{os.sep}{ROOT}{os.sep}" in frame.filename] or frames
        place = ""
        if own:
            file = own[-1].filename.rpartition(f"{os.sep}{ROOT}{os.sep}")[2]
            place = f" in {ROOT}/{file}:{own[-1].lineno} ({own[-1].name})"
        log.debug("refused: %s%s", type(chain).__name__, place)
        chain = chain.__cause__
