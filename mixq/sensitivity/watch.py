"""Watch: a worker ends when the process ends that started it, whatever ends that."""

from __future__ import annotations

import os
import threading
import time
from typing import Final

PAUSE_S: Final = 0.5


def end_with(process: int) -> None:
    """End this process soon after `process`, its parent, has ended; returns at once.

    Nothing heavy is imported here: a worker calls it before anything else.
    """

    def watch() -> None:
        while os.getppid() == process:
            time.sleep(PAUSE_S)
        os._exit(1)  # there is nobody left to tell

    threading.Thread(target=watch, daemon=True).start()
