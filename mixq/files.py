"""Files that are written whole or not at all, and read within bounds."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mixq.errors import MixqError, OutputError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when the block ends well.

    The temporary file is synced to disk before the rename, so that a crash leaves the old file
    or the new one and never a part of either. If the block fails, nothing is left behind.

    Raises:
        OutputError: if the file cannot be written (no such folder, no permission, disk full).
    """
    target = Path(path)
    temporary: Path | None = None
    try:
        # mkstemp creates the file for the owner alone; a result is as public as any other file.
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
        temporary = None
        _sync_folder(target.parent)
    except OSError as error:
        if isinstance(error, MixqError):
            raise
        raise OutputError(
            f"{target} cannot be written: {error.strerror or error}; "
            "nothing was changed, choose another place or make room"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_bytes_atomic(path: str | Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all.

    Raises:
        OutputError: if the file cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text_atomic(path: str | Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all.

    Raises:
        OutputError: if the file cannot be written.
    """
    write_bytes_atomic(path, text.encode("utf-8"))


def write_json_atomic(path: str | Path, value: object) -> None:
    """Write `value` as indented JSON with a final newline, whole or not at all.

    NaN and infinity are refused, because JSON has no word for them.

    Raises:
        OutputError: if the file cannot be written.
    """
    write_text_atomic(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_bounded(path: str | Path, limit_bytes: int, error: type[MixqError], what: str) -> str:
    """The UTF-8 text of a file no larger than `limit_bytes`.

    Raises:
        error: if the file is missing, unreadable, too large or not UTF-8.
    """
    source = Path(path)
    try:
        if not source.is_file():
            raise error(f"{what} {source} is not a file; check the path")
        with source.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except OSError as problem:
        raise error(f"{what} {source} cannot be read: {problem.strerror or problem}") from problem
    if len(data) > limit_bytes:
        raise error(f"{what} {source} is larger than {limit_bytes:,} bytes, so it is not read")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise error(f"{what} {source} is not UTF-8 text (byte {problem.start})") from problem


def parse_json(text: str, error: type[MixqError], what: str) -> object:
    """The value of a JSON text, with NaN, infinity and absurd nesting refused.

    Raises:
        error: if `text` is not JSON.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as problem:
        first = str(problem).splitlines()[0]
        raise error(f"{what} is not valid JSON: {first}; it may be truncated") from problem


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not a number of JSON")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
