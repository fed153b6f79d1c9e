"""Silence: keeps what C code prints out of results on stdout."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def silent_stdout() -> Iterator[None]:
    """Send what C code prints nowhere, so that results on stdout stay parsable.

    HiGHS 1.12 prints a debugging line however silent it is told to be
    (https://github.com/jump-dev/HiGHS.jl/issues/312); C buffers it, hence the flush. What other
    threads write to stdout meanwhile is lost too.
    """
    try:
        saved = os.dup(1)
    except OSError:
        # Nothing is open there, so there is nothing to keep clean.
        yield
        return
    flush = ctypes.CDLL(None if os.name == "posix" else "ucrtbase").fflush
    flush(None)
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 1)
    try:
        yield
    finally:
        flush(None)
        os.dup2(saved, 1)
        os.close(saved)
