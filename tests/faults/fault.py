"""Fault: what happens to a command while it runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Fault:
    """One fault; the default is none.

    Attributes:
        signal: that is sent, `after_s` seconds after the start or at call number `call`.
        call: number of the system call that changes something in the command's folder, from 0.
        error: that this call gets instead, and every later one that needs room on the disk.
        file_bytes: no file may grow beyond so many (RLIMIT_FSIZE).
        memory_bytes: of address space beyond what the process starts with (RLIMIT_AS).
        trace: note the calls although nothing happens to any.
    """

    signal: int | None = None
    after_s: float | None = None
    call: int | None = None
    error: int | None = None
    file_bytes: int | None = None
    memory_bytes: int | None = None
    trace: bool = False

    @property
    def traps(self) -> bool:
        """Whether calls have to be watched."""
        return self.trace or self.call is not None

    def to_json(self) -> dict[str, object]:
        return asdict(self)


NONE = Fault()
TRACED = Fault(trace=True)
