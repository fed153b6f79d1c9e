"""Databases that go away under a search, and what it must be able to do afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from .commands import SEARCH, Stage
from .driver import Task

SHORT_GRACE: Final = """
from mixq.search.study import storage
storage.HEARTBEAT_S, storage.GRACE_S = 1, 2
from mixq.sensitivity.whole import WholePlans
import time
alone = WholePlans._alone
def slowly(*arguments):
    time.sleep(0.2)
    return alone(*arguments)
WholePlans._alone = slowly
"""
"""What a lost process left is taken up after seconds, and plans take long enough to meet a loss."""


def lose_amid(
    stage: Stage,
    folder: Path,
    url: str | None,
    begun: Callable[[], bool],
    lose: Callable[[], None],
) -> list[str]:
    """Take a study's storage away once something has begun; then the same command again.

    Returns:
        What went wrong: an unclean end, a command that does not go on, another plan.
    """
    storage = () if url is None else ("--storage", url)
    whole = stage.undisturbed("search")
    stage.start("search", folder)
    task = Task((*SEARCH, *storage), folder, before=SHORT_GRACE)
    stage.zygote.start([task])
    deadline = time.monotonic() + 60
    while not begun():
        assert time.monotonic() < deadline, "the search does not begin to measure plans"
        time.sleep(0.01)
    lose()
    (outcome,) = stage.zygote.ended()
    problems = [] if outcome.is_clean else [f"unclean: {outcome.status}: {outcome.err[-2000:]!r}"]
    again = stage.zygote.run(replace(task))
    if again.status != 0 or not again.is_clean:
        problems.append(f"stuck: {again.status}: {again.err[-2000:]!r}; first {outcome.err!r}")
    for name in ("plan.json", "plan.weights.safetensors", "sensitivity.json", "frontier.json"):
        file = folder / "run" / name
        if not file.is_file() or file.read_bytes() != whole.contents[f"run/{name}"]:
            problems.append(f"differs: {name}")
    return problems
