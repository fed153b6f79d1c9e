"""Files that are written whole or not at all, and read within bounds."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

from mixq.errors import MixqError, OutputError
from mixq.errors import one_line as one_line
from mixq.workshop import workshop

_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")
_KEY: Final = r"(?:[A-Za-z0-9_-]++|\"[^\"\n]*+\"|'[^'\n]*+')"
_LONG_KEY: Final = re.compile(rf"(?<![A-Za-z0-9_-]){_KEY}(?:[ \t]*+\.[ \t]*+{_KEY}){{32}}")
"""More parts of a key than any file of ours has. tomllib takes the square of their number in time
and memory: 20 minutes for a megabyte."""


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
    data = read_bytes_bounded(path, limit_bytes, error, what)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise error(
            f"{what} {one_line(path)} is not UTF-8 text (byte {problem.start})"
        ) from problem


def read_bytes_bounded(
    path: str | Path, limit_bytes: int, error: type[MixqError], what: str
) -> bytes:
    """The bytes of a regular file no larger than `limit_bytes`.

    Raises:
        error: if the file is missing, unreadable, too large, a folder, a pipe or a device.
    """
    shown = f"{what} {one_line(path)}"
    try:
        with open_regular(path) as file:
            data = file.read(limit_bytes + 1)
    except (OSError, ValueError) as problem:  # the latter for a NUL in the name
        if not is_regular(path):
            raise error(f"{shown} is not a file; check the path") from problem
        reason = getattr(problem, "strerror", None) or problem
        raise error(f"{shown} cannot be read: {one_line(reason)}") from problem
    if len(data) > limit_bytes:
        raise error(f"{shown} is larger than {limit_bytes:,} bytes, so it is not read")
    return data


def is_regular(path: str | Path) -> bool:
    """Whether there is a file, or a link to one; what the system takes for no path is none."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def open_regular(path: str | Path) -> BinaryIO:
    """A regular file, or the one that a link leads to, opened for reading.

    What is opened is looked at, not what the path led to before: it may have changed meanwhile. A
    pipe without a writer does not block, and nothing of it or of a device is read.

    Raises:
        OSError: if it cannot be opened or is no regular file.
        ValueError: if the path holds a NUL.
    """
    if Path(path).is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not Path(path).is_file():  # devices may do something when they are opened
        raise FileNotFoundError(f"{one_line(path)} is no regular file")
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise FileNotFoundError(f"{one_line(path)} is no regular file")
    return os.fdopen(handle, "rb")


def own_file(path: Path) -> None:
    """Make sure that appending to a file changes no other one.

    A link is refused; a file with a second name becomes one of its own.

    Raises:
        OutputError: if it is a link or no regular file, or cannot be copied.
    """
    try:
        if path.is_symlink() or (path.exists() and not (path.is_file() or path.is_dir())):
            raise OutputError(
                f"{one_line(path)} is a link or no regular file, and what mixq appends would go "
                "somewhere else; delete it"
            )
        if path.is_file() and path.stat().st_nlink > 1:
            write_bytes_atomic(path, path.read_bytes())
    except OSError as error:
        if isinstance(error, MixqError):
            raise
        raise OutputError(
            f"{one_line(path)} cannot be read: {one_line(error.strerror or error)}; make it "
            "readable or delete it"
        ) from error


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML text.

    Raises:
        ValueError: if it is none, has a key of absurdly many parts, or is nested too deep.
    """
    if _LONG_KEY.search(text):
        raise ValueError("a key has more than 32 parts")
    try:
        return tomllib.loads(text)
    except RecursionError as problem:
        raise ValueError("it is nested too deep") from problem


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
