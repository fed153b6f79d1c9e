"""The oracle: a clean refusal or a correct result, in bounded time and memory, touching nothing.

Python's audit events say what a reader opens, runs and starts; a hook cannot be taken off again,
so it looks at nothing while no reader is being judged.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Literal

from mixq.errors import MixqError

from .target import Target

SECONDS = 2.0
"""CPU time for one input."""
SPARE_BYTES = 96 << 20
"""Memory beside `PER_BYTE` times the input's size."""
PER_BYTE = 100
LONGEST = 4000
STARTS = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.startfile",
    "subprocess.Popen", "pty.spawn", "pickle.find_class", "socket.connect", "socket.getaddrinfo",
    "socket.bind", "ctypes.dlopen", "ftplib.connect", "urllib.Request", "webbrowser.open",
)  # fmt: skip
"""Events that no reader has any business with."""
MOVES = (
    "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.chmod",
    "os.chown", "os.truncate", "os.utime", "shutil.rmtree", "shutil.move", "shutil.copyfile",
)  # fmt: skip
LIBRARIES = tuple(
    f"{os.path.realpath(place)}{os.sep}"
    for place in (sys.prefix, sys.base_prefix, *sys.path, str(Path(__file__).parents[2]))
    if place and Path(place).exists()
)
SYSTEM = ("/proc/", "/sys/", "/dev/null", "/dev/urandom", "/etc/mime.types", "/usr/share/zoneinfo")


class TooSlow(BaseException):
    """Raised in the middle of whatever takes too long."""


@dataclass
class Watch:
    """What the audit hook looks at."""

    folder: str = ""
    writes: bool = False
    generates: tuple[str, ...] = ()
    seen: list[str] = field(default_factory=list)
    armed: bool = False


@dataclass(frozen=True)
class Verdict:
    """What became of one input."""

    kind: Literal["refused", "accepted", "wrong"]
    why: str
    seconds: float
    peak_bytes: int


_watch = Watch()
_hooked: list[bool] = []


def judge(target: Target, data: bytes, folder: Path, *, seconds: float = SECONDS) -> Verdict:
    """Give one input to a reader.

    Args:
        target: the reader.
        data: the file's content.
        folder: where the reader's other files lie; the input is put there.
        seconds: of CPU time that it may take.
    """
    path = folder / target.file
    _put(path, data)
    before = _reset_peak()
    start = time.process_time()
    kind: Literal["refused", "accepted", "wrong"]
    found: object = None
    try:
        with _limited(seconds), _watched(folder, target):
            found = target.read(path)
        kind, why = "accepted", ""
    except MixqError as error:
        kind, why = _refusal(str(error), target.named or path.name)
    except TooSlow as slow:
        kind, why = "wrong", f"more than {seconds} s in {slow}"
    except MemoryError:
        kind, why = "wrong", "MemoryError"
    except Exception as error:  # whatever a reader lets out is what is looked for
        kind, why = "wrong", _where(error)
    taken = time.process_time() - start
    peak = max(0, _peak() - before)
    if kind == "accepted" and target.check is not None:
        try:
            with _limited(3 * seconds), _watched(folder, target, writes=True):
                target.check(found, path)
        except TooSlow as slow:
            kind, why = "wrong", f"checking takes too long in {slow}"
        except Exception as error:  # as above
            kind, why = "wrong", f"accepted, but {_where(error)}"
    if _watch.seen:
        kind, why = "wrong", f"it did {_watch.seen[0]}"
    elif peak > SPARE_BYTES + PER_BYTE * len(data):
        kind, why = "wrong", f"{peak >> 20} MiB for {len(data)} bytes"
    return Verdict(kind, why, taken, peak)


def _put(path: Path, data: bytes) -> None:
    if path.is_symlink():
        path.unlink()
    path.write_bytes(data)


def _refusal(message: str, name: str) -> tuple[Literal["refused", "wrong"], str]:
    if len(message) >= LONGEST:
        return "wrong", f"a message of {len(message)} characters"
    if not message.isprintable():
        return "wrong", f"a message that is not one printable line: {ascii(message)[:300]}"
    if not any(one in message for one in name.split("|")):
        return "wrong", f"a message that does not name {name}: {message[:300]}"
    return "refused", re.sub(r"[0-9]+|'[^']*'", "*", message)[:80]


def _where(error: BaseException) -> str:
    trace, place = error.__traceback__, ""
    while trace is not None:
        code = trace.tb_frame.f_code
        if "hostile" not in code.co_filename.rpartition("tests")[2]:
            place = f"{Path(code.co_filename).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(error).__name__} at {place}: {ascii(str(error))[:200]}"


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def late(_: int, frame: FrameType | None) -> None:
        where = "" if frame is None else f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        raise TooSlow(where)

    old = signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, old)


@contextmanager
def _watched(folder: Path, target: Target, *, writes: bool = False) -> Iterator[None]:
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked.append(True)
    if not writes:
        _watch.seen = []
    _watch.folder = f"{os.path.realpath(folder)}{os.sep}"
    _watch.writes = writes or target.writes
    _watch.generates = target.generates
    _watch.armed = True
    try:
        yield
    finally:
        _watch.armed = False


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if not _watch.armed:
        return
    if event == "open":
        _opened(args)
    elif event in STARTS:
        _watch.seen.append(f"{event} {ascii(args)[:200]}")
    elif event in MOVES:
        paths = [
            os.fsdecode(one) for one in args[:2] if isinstance(one, str | bytes | os.PathLike)
        ]
        if any("/torchinductor_" in path for path in paths):
            return  # torch makes that folder when its exporter is imported
        if not _watch.writes or not all(_inside(path) for path in paths):
            _watch.seen.append(f"{event} {ascii(args)[:200]}")
    elif event == "exec":
        _ran(event, args[0].co_filename if isinstance(args[0], CodeType) else "?", args)
    elif event == "compile":
        _ran(event, os.fsdecode(args[1]) if isinstance(args[1], str | bytes) else "?", args)


def _ran(event: str, name: str, args: tuple[Any, ...]) -> None:
    if name.startswith(("<frozen ", *LIBRARIES, *_watch.generates)):
        return
    if os.path.realpath(name).startswith(LIBRARIES):
        return
    _watch.seen.append(f"{event} {name} {ascii(args)[:200]}")


def _opened(args: tuple[Any, ...]) -> None:
    path, mode, flags = args
    if isinstance(path, int):
        return
    text = os.fsdecode(path)
    writing = (isinstance(mode, str) and set(mode) & set("wax+")) or (
        isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    )
    if _inside(text):
        if writing and not _watch.writes:
            _watch.seen.append(f"open {text[:100]} for writing")
        return
    known = (*LIBRARIES, *SYSTEM)
    real = os.path.realpath(text) if "\0" not in text else text
    if writing or not (text.startswith(known) or real.startswith(known)):
        if text == "/dev/null" or not os.path.lexists(text.split("\0")[0]):
            return  # what is not there gives nothing away, and is refused by its reader
        _watch.seen.append(f"open {ascii(text)[:100]} {mode} {flags}")


def _inside(path: str) -> bool:
    if "\0" in path:
        return False
    parent, _, name = path.rpartition(os.sep)
    place = os.path.realpath(parent or (os.sep if path.startswith(os.sep) else "."))
    return f"{place}{os.sep}{name}{os.sep}".startswith(_watch.folder)


def _reset_peak() -> int:
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:  # noqa: PTH123
            file.write("5")
    except OSError:
        return _peak()
    return _peak()


def _peak() -> int:
    try:
        with open("/proc/self/status", "rb") as file:  # noqa: PTH123
            for line in file:
                if line.startswith(b"VmHWM"):
                    return int(line.split()[1]) << 10
    except OSError:
        pass
    return 0


def workplace() -> tempfile.TemporaryDirectory[str]:
    """A folder in memory where the system has one."""
    shared = Path("/dev/shm")
    return tempfile.TemporaryDirectory(prefix="mixq-", dir=shared if shared.is_dir() else None)
