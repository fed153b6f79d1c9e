"""Files that are written whole or not at all, and read within bounds."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from mixq.errors import MixqError, OutputError
from mixq.workshop import workshop

_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")


def one_line(text: object, limit: int = 300) -> str:
    """`text` fit for a message: control characters escaped, cut after `limit` characters.

    Names of files and layers come from outside, and a terminal obeys control characters.
    """
    start = str(text)[: limit + 1]
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in start)
    return shown if len(shown) <= limit else f"{shown[:limit]}..."


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary file that takes the place of `path` when the block ends well.

    It is synced to disk before the rename, so that a crash leaves the old file or the new one and
    never a part of either. If the block fails, nothing is left behind; what a process that was
    killed left is deleted by `mixq.workshop.sweep`.

    Raises:
        OutputError: if the file cannot be written (no such folder, no permission, disk full).
    """
    target = Path(path)
    if "\0" in target.name:
        raise OutputError(
            f"{one_line(target)} cannot be written: a name has no NUL; choose another"
        )
    try:
        with workshop(target) as folder:
            temporary = folder / target.name
            temporary.touch()
            yield temporary
            with temporary.open("rb+") as written:
                os.fsync(written.fileno())
            # Some libraries make files for the owner alone; a result is as public as any other.
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        if isinstance(error, MixqError):
            raise
        raise OutputError(
            f"{one_line(target)} cannot be written: {one_line(error.strerror or error)}; "
            "nothing was changed, choose another place or make room"
        ) from error


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
    write_text_atomic(path, json_text(value))


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they are missing.

    Raises:
        OutputError: if one cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"folder {one_line(path)} cannot be made: {one_line(error.strerror or error)}; "
            "choose another place with --output"
        ) from error


def json_text(value: object) -> str:
    """`value` as indented JSON with a final newline; NaN and infinity are a ValueError."""
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def read_bounded(path: str | Path, limit_bytes: int, error: type[MixqError], what: str) -> str:
    """The UTF-8 text of a file no larger than `limit_bytes`.

    Raises:
        error: if the file is missing, unreadable, too large or not UTF-8.
    """
    source = Path(path)
    shown = f"{what} {one_line(source)}"
    try:
        if not source.is_file():
            raise error(f"{shown} is not a file; check the path")
        with source.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except OSError as problem:
        raise error(
            f"{shown} cannot be read: {one_line(problem.strerror or problem)}"
        ) from problem
    if len(data) > limit_bytes:
        raise error(f"{shown} is larger than {limit_bytes:,} bytes, so it is not read")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise error(f"{shown} is not UTF-8 text (byte {problem.start})") from problem


def parse_json(text: str, error: type[MixqError], what: str) -> object:
    """The value of a JSON text, with NaN, infinity, half characters and absurd nesting refused.

    Raises:
        error: if `text` is not JSON.
    """
    try:
        value: object = json.loads(text, parse_constant=_refuse_constant)
        if _SURROGATE.search(text):
            # JSON can spell half of a surrogate pair, which nothing can print or write again.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        return value
    except (ValueError, RecursionError) as problem:
        raise error(
            f"{one_line(what)} is not valid JSON: {one_line(problem)}; it may be truncated"
        ) from problem


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not a number of JSON")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    # The file is in place by now, and not every system can open or sync a folder.
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
