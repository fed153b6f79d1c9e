"""Workshop: a folder beside a target, in which a file is made before it takes its place.

A process that is killed leaves its workshop behind. Who works in one holds a lock on it, which the
system lets go when the process dies, so that the next one can tell what is rubbish.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

if sys.platform != "win32":
    import fcntl

NAME: Final = re.compile(r"\..{0,32}\.[a-z0-9_]{8}\.mixq", re.DOTALL)
"""Names of workshops: the target's first characters, what makes it another one, and our mark."""
ATTEMPTS: Final = 100


@contextmanager
def workshop(target: Path) -> Iterator[Path]:
    """A folder of this process's own beside `target`, gone afterwards whatever happens.

    Raises:
        OSError: if it cannot be made.
    """
    folder, handle = _opened(target)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if handle is not None:
            os.close(handle)


@contextmanager
def scratch(name: str) -> Iterator[Path]:
    """A workshop in the system's folder for temporary files; others' that are dead are deleted.

    Raises:
        OSError: if it cannot be made.
    """
    place = Path(tempfile.gettempdir())
    sweep(place)
    with workshop(place / name) as folder:
        yield folder


def sweep(folder: Path) -> None:
    """Delete the workshops in a folder whose processes are dead."""
    with suppress(OSError):  # no such folder, or one that may not be read
        for path in [path for path in folder.iterdir() if NAME.fullmatch(path.name)]:
            with suppress(OSError):  # no folder, another user's, or in use
                handle = _locked(path)
                if handle is not None:
                    shutil.rmtree(path, ignore_errors=True)
                    os.close(handle)


def _opened(target: Path) -> tuple[Path, int | None]:
    """A new workshop and its lock; no lock where the file system knows none."""
    for _ in range(ATTEMPTS):
        # A name may be as long as the file system allows, so this one takes only part of it.
        folder = Path(
            tempfile.mkdtemp(
                prefix=f".{target.name[:32]}.", suffix=".mixq", dir=target.absolute().parent
            )
        )
        try:
            handle = _locked(folder)
        except (BlockingIOError, FileNotFoundError):
            continue  # another process took it for rubbish before it was locked, and deletes it
        except OSError:
            return folder, None
        if handle is None or folder.exists():
            return folder, handle
        os.close(handle)
    raise FileExistsError(f"no workshop beside {target}")


def _locked(folder: Path) -> int | None:
    """Lock a workshop; the descriptor that holds the lock, None on a system without such locks.

    Raises:
        OSError: if it is no folder or cannot be locked; BlockingIOError if another process has it.
    """
    if sys.platform == "win32":
        return None
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle
