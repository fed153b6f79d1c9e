"""Loudness: how much a command says on stderr."""

from __future__ import annotations

from enum import IntEnum

from mixq.errors import UsageError


class Loudness(IntEnum):
    """Errors alone; notes and progress too; or also what is done and why."""

    quiet = 0
    normal = 1
    verbose = 2


class _Asked:
    """What the command line of this process has asked for so far."""

    loudness = Loudness.normal


def is_quiet() -> bool:
    """Whether errors alone are wanted."""
    return _Asked.loudness is Loudness.quiet


def is_verbose() -> bool:
    """Whether it is to be said what is done and why."""
    return _Asked.loudness is Loudness.verbose


def reset() -> None:
    """As loud as a command that asks for nothing; one process may run several."""
    _Asked.loudness = Loudness.normal


def ask(wanted: Loudness) -> None:
    """Make the command as loud as one of its options says.

    Raises:
        UsageError: if another option has said the contrary.
    """
    if _Asked.loudness not in (Loudness.normal, wanted):
        raise UsageError("--verbose and --quiet are contrary to each other; leave one out")
    _Asked.loudness = wanted
