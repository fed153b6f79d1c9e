"""Aim: which calls and moments of a command a fault is to meet."""

from __future__ import annotations

import errno
import re
import signal
from random import Random
from typing import Final

from .commands import Undisturbed
from .fault import Fault

SIGNALS: Final = (signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
"""Half of all are the one that no process can answer."""


def moment(whole: Undisturbed, draw: Random) -> Fault:
    """A signal at a random moment, now and then after the end."""
    after_s = draw.random() * 1.05 * whole.outcome.seconds
    return Fault(signal=draw.choice(SIGNALS), after_s=after_s)


def kinds(whole: Undisturbed) -> list[list[int]]:
    """Numbers of the calls, those of one kind on one kind of file together."""
    found: dict[str, list[int]] = {}
    for number, call in enumerate(whole.outcome.calls):
        # Random parts of temporary names, and keys that tell files of one kind apart.
        kind = re.sub(
            r"[0-9a-f]{16,}|\.[a-z0-9_]{8}\.mixq|\.tmp\w{6}|lock[0-9a-f-]{36}", "*", call
        )
        found.setdefault(kind, []).append(number)
    return list(found.values())


def calls(whole: Undisturbed, count: int, draw: Random) -> list[int]:
    """So many calls: one of each kind first, as long as there are any."""
    groups = kinds(whole)
    draw.shuffle(groups)
    first = [draw.choice(group) for group in groups]
    rest = [number for number in range(len(whole.outcome.calls)) if number not in first]
    draw.shuffle(rest)
    return [*first, *rest][:count]


def killed_at(call: int, draw: Random) -> Fault:
    """A signal just before a call."""
    return Fault(signal=draw.choice(SIGNALS), call=call)


def full_at(call: int) -> Fault:
    """A disk that is full from this call on."""
    return Fault(call=call, error=errno.ENOSPC)


def broken_at(call: int) -> Fault:
    """A disk that fails from this call on."""
    return Fault(call=call, error=errno.EIO)
