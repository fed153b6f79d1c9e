"""The errors of other people's code in one line."""

from __future__ import annotations


def reason(error: Exception) -> str:
    """The kind of an error and the first line of its message: `ValueError: no such file`."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
