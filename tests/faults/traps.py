"""Traps: a process whose every system call that changes a file waits for its parent's word.

Linux's seccomp user notification (seccomp_unotify(2)): whatever library makes the call, Python,
Rust or C++, the parent sees it before the kernel carries it out, and may kill the process right
there or give it an error of a full disk.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# Numbers of x86-64 (arch/x86/entry/syscalls/syscall_64.tbl). Behind each: whether it names a file
# by descriptor, or which argument is the path that it changes.
CALLS: Final = {
    1: ("write", None), 18: ("pwrite64", None), 20: ("writev", None), 285: ("fallocate", None),
    74: ("fsync", None), 75: ("fdatasync", None), 77: ("ftruncate", None), 76: ("truncate", 0),
    2: ("open", 0), 257: ("openat", 1), 85: ("creat", 0), 83: ("mkdir", 0), 258: ("mkdirat", 1),
    82: ("rename", 1), 264: ("renameat", 3), 316: ("renameat2", 3), 87: ("unlink", 0),
    263: ("unlinkat", 1), 84: ("rmdir", 0), 90: ("chmod", 0), 91: ("fchmod", None),
    86: ("link", 1), 265: ("linkat", 3), 88: ("symlink", 1), 266: ("symlinkat", 2),
}  # fmt: skip
FILLS_DISK: Final = frozenset(
    {"write", "pwrite64", "writev", "fallocate", "fsync", "fdatasync", "open", "openat", "creat",
     "mkdir", "mkdirat", "link", "linkat", "symlink", "symlinkat"}
)  # fmt: skip
"""Those that a full disk refuses; the others need no room."""
_OPENS: Final = {"open": 1, "openat": 2}
"""The argument that holds the flags."""
_X86_64: Final = 0xC000003E
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_LOAD, _EQUAL, _SET, _RETURN = 0x20, 0x15, 0x45, 0x06
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_CONTINUE: Final = 1

SUPPORTED: Final = sys.platform == "linux" and platform.machine() == "x86_64"


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte),
        ("k", ctypes.c_uint),
    )  # fmt: skip


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.POINTER(_Instruction)))


def set_traps() -> int:
    """From now on this process and its children ask; the descriptor on which they do.

    Raises:
        OSError: if the kernel has no such notifications, or a container forbids them.
    """
    code = _program()
    instructions = (_Instruction * len(code))(*code)
    program = _Program(len(code), instructions)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    listener: int = libc.syscall(317, 1, 8, ctypes.byref(program))  # seccomp, NEW_LISTENER
    if listener < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return listener


def _program() -> list[tuple[int, int, int, int]]:
    """Classic BPF: files that are only opened for reading are nobody's business."""
    number, arch = 0, 4
    code = [(_LOAD, 0, 0, arch), (_EQUAL, 1, 0, _X86_64), (_RETURN, 0, 0, _ALLOW)]
    for call, (name, _) in CALLS.items():
        code.append((_LOAD, 0, 0, number))
        if (flags := _OPENS.get(name)) is None:
            code += [(_EQUAL, 0, 1, call), (_RETURN, 0, 0, _NOTIFY)]
        else:
            code += [
                (_EQUAL, 0, 3, call),
                (_LOAD, 0, 0, 16 + 8 * flags),
                (_SET, 0, 1, os.O_CREAT | os.O_TRUNC),
                (_RETURN, 0, 0, _NOTIFY),
            ]
    return [*code, (_RETURN, 0, 0, _ALLOW)]


@dataclass(frozen=True)
class Call:
    """A call that waits.

    Attributes:
        process: that makes it.
        name: such as `write`.
        path: of the file that it changes; empty if that cannot be told.
    """

    key: int
    process: int
    name: str
    path: str


def receive(listener: int) -> Call | None:
    """The next call that waits; None if its process has died meanwhile."""
    asked = bytearray(80)
    try:
        fcntl.ioctl(listener, _RECEIVE, asked)
    except OSError:
        return None
    key, process, _, number = struct.unpack_from("=QIIi", asked)
    arguments = struct.unpack_from("=6Q", asked, 32)
    name, which = CALLS[number]
    try:
        if which is None:
            path = str(Path(f"/proc/{process}/fd/{arguments[0] & 0xFFFFFFFF}").readlink())
        else:
            path = _path_at(process, arguments[which], _folder(name, arguments[which - 1]))
    except OSError:
        path = ""
    return Call(key, process, name, path)


def _folder(name: str, descriptor: int) -> str:
    """What the path of a call is relative to, in the folder of its process in /proc."""
    number = descriptor & 0xFFFFFFFF
    relative = name.endswith(("at", "at2")) and name != "creat"
    return f"fd/{number}" if relative and number < 1 << 20 else "cwd"  # else AT_FDCWD


def _path_at(process: int, address: int, folder: str) -> str:
    with open(f"/proc/{process}/mem", "rb", buffering=0) as memory:  # noqa: PTH123
        memory.seek(address)
        text = memory.read(4096 - address % 4096)
        if b"\0" not in text:
            text += memory.read(4096)
    named = os.fsdecode(text.partition(b"\0")[0])
    return str(Path(f"/proc/{process}/{folder}").readlink() / named)


def answer(listener: int, call: Call, error: int = 0) -> None:
    """Let the call go on, or fail with an error number."""
    told = struct.pack("=QqiI", call.key, 0, -error, 0 if error else _CONTINUE)
    try:
        fcntl.ioctl(listener, _SEND, told)
    except OSError:  # a signal took the process out of its call; it asks again if it lives
        return
