"""Files: whole or not at all, bounded when read, one line when refused."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from mixq.errors import OutputError, PlanError
from mixq.files import (
    atomic_path,
    one_line,
    parse_json,
    read_bounded,
    write_bytes_atomic,
    write_json_atomic,
    write_text_atomic,
)


def one_line_refusal(error: pytest.ExceptionInfo[Exception]) -> str:
    message = str(error.value)
    assert message.isprintable()
    assert len(message) < 1000
    return message


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one old file in it."""
    (tmp_path / "plan.json").write_bytes(b"old")
    return tmp_path


def assert_untouched(folder: Path) -> None:
    assert [file.name for file in folder.iterdir()] == ["plan.json"]
    assert (folder / "plan.json").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("write", "written"),
    [
        (lambda path: write_bytes_atomic(path, b"\x00\xff"), b"\x00\xff"),
        (lambda path: write_text_atomic(path, "a\r\nä"), "a\r\nä".encode()),
        (lambda path: write_json_atomic(path, {"a": [1.5]}), b'{\n "a": [\n  1.5\n ]\n}\n'),
    ],
    ids=["bytes", "text", "json"],
)
def test_the_old_file_is_replaced(
    folder: Path, write: Callable[[Path], None], written: bytes
) -> None:
    write(folder / "plan.json")
    assert (folder / "plan.json").read_bytes() == written
    assert [file.name for file in folder.iterdir()] == ["plan.json"]


@pytest.mark.parametrize("name", ["x" * 255, "ä" * 127, ".hidden", "a b\n"], ids=ascii)
def test_any_name_that_the_system_takes_is_written(tmp_path: Path, name: str) -> None:
    write_bytes_atomic(tmp_path / name, b"new")
    assert (tmp_path / name).read_bytes() == b"new"


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "ordinary").write_bytes(b"")
    write_bytes_atomic(tmp_path / "atomic", b"")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ordinary", "atomic")}
    assert len(modes) == 1


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace", "pathlib.Path.write_bytes"])
def test_a_full_disk_leaves_the_old_file(
    folder: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call, full_disk)
    with pytest.raises(OutputError, match="No space left on device") as refused:
        write_bytes_atomic(folder / "plan.json", b"new")
    one_line_refusal(refused)
    assert_untouched(folder)


def write_half(path: Path, failure: BaseException) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        raise failure


def test_a_disk_that_fills_up_half_way_leaves_the_old_file(folder: Path) -> None:
    with pytest.raises(OutputError):
        write_half(folder / "plan.json", OSError(errno.ENOSPC, "full"))
    assert_untouched(folder)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_any_other_end_passes_and_leaves_the_old_file(
    folder: Path, error: type[BaseException]
) -> None:
    with pytest.raises(error):
        write_half(folder / "plan.json", error())
    assert_untouched(folder)


def test_mixqs_own_refusal_is_not_reworded(folder: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"^inner$"),
        atomic_path(folder / "plan.json"),
    ):
        raise OutputError("inner")


def test_a_folder_that_cannot_be_synced_is_no_failure(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on Windows, and on some network file systems.
    real = os.open

    def opened(path: str | Path, flags: int, mode: int = 0o777) -> int:
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, flags, mode)

    monkeypatch.setattr("os.open", opened)
    write_bytes_atomic(folder / "plan.json", b"new")
    assert (folder / "plan.json").read_bytes() == b"new"


@pytest.mark.parametrize(
    "place",
    ["missing/plan.json", "plan.json/inside", "folder", "a\0b", "x" * 300, "\x1b[31m\n/plan.json"],
    ids=["no folder", "below a file", "is a folder", "NUL", "too long", "control characters"],
)
def test_a_place_that_cannot_be_written_is_refused(folder: Path, place: str) -> None:
    (folder / "folder").mkdir()
    with pytest.raises(OutputError, match="cannot be written") as refused:
        write_bytes_atomic(folder / place, b"new")
    one_line_refusal(refused)
    (folder / "folder").rmdir()
    assert_untouched(folder)


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), {"a": object()}],
    ids=["not a number", "infinity", "an object"],
)
def test_values_that_are_not_json_never_reach_the_file(folder: Path, value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        write_json_atomic(folder / "plan.json", value)
    assert_untouched(folder)


def test_reading_stops_at_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"12345")
    assert read_bounded(path, 5, PlanError, "plan") == "12345"
    with pytest.raises(PlanError, match="larger than 4 bytes"):
        read_bounded(path, 4, PlanError, "plan")


def test_a_sparse_giant_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "giant"
    with path.open("wb") as file:
        file.truncate(1 << 36)  # 64 GiB that take no room
    with pytest.raises(PlanError, match="larger than"):
        read_bounded(path, 1000, PlanError, "plan")


@pytest.mark.parametrize(
    "name", ["missing", "folder", "pipe", "a\0b", "no\nsuch\x1b[2J"], ids=ascii
)
def test_what_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    with pytest.raises(PlanError, match="is not a file") as refused:
        read_bounded(tmp_path / name, 10, PlanError, "plan")
    one_line_refusal(refused)


def test_text_is_utf8(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"ab\xff")
    with pytest.raises(PlanError, match=r"not UTF-8 text \(byte 2\)"):
        read_bounded(tmp_path / "text", 10, PlanError, "plan")


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", '{"a": 1', "[1,]", "nul", "\ufeff{}", "{} {}", "{'a': 1}", '"\x01"'),
        *(
            "NaN",
            "[Infinity]",
            '{"a": -Infinity}',
            "9" * 5000,
            '"\\uD800"',
            '{"\\udfff": 1}',
            "[" * 100_000,
            '{"a":' * 100_000,
        ),
    ],
    ids=lambda text: ascii(text)[:20],
)
def test_what_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match="is not valid JSON") as refused:
        parse_json(text, PlanError, "plan \x1b[2J")
    one_line_refusal(refused)


def test_json_is_read() -> None:
    value = {"a": [1, 2.5, None, True, "ä\n😀"], "b": {}}
    assert parse_json(json.dumps(value), PlanError, "plan") == value


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ä 漢", "plain ä 漢"),
        ("a\nb\x1b[1m", r"a\nb\x1b[1m"),
        ("\u202e\ud800", r"\u202e\ud800"),
        ('it\'s "so" \\n', 'it\'s "so" \\n'),
        ("x" * 20, "x" * 16 + "..."),
        ("\n" * 20, r"\n\n\n\n\n\n\n\n..."),
        (Path("p"), "p"),
    ],
    ids=ascii,
)
def test_one_line_is_one_line(text: object, shown: str) -> None:
    assert one_line(text, limit=16) == shown
