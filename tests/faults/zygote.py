"""Zygote: imports mixq and torch once, then forks a child for every command.

A line on stdin is a list of commands that run at the same time, `{"arguments", "folder", "fault"}`
each; a line on stdout is the list of how they ended. Run as a program.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from fault import Fault  # type: ignore[import-not-found]
from traps import (  # type: ignore[import-not-found]
    FILLS_DISK,
    Call,
    answer,
    receive,
    set_traps,
)

LONGEST_S = 100.0
"""No command here takes as long on a busy machine; one that does hangs."""


@dataclass
class Child:
    """A command that runs.

    Attributes:
        said: what it wrote to stdout and stderr, by descriptor of the pipe.
        calls: `name path` of what it did to its folder, in that order.
    """

    process: int
    folder: str
    fault: Fault
    ended: int
    pipes: tuple[int, int]
    listener: int | None
    started: float
    said: dict[int, bytearray] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    hurt: bool = False
    hung: bool = False
    status: int | None = None
    seconds: float = 0.0
    peak_bytes: int = 0

    @property
    def due_s(self) -> float | None:
        """When to send the signal that is sent at a moment; None if none is left to be sent."""
        after_s = self.fault.after_s
        return None if self.hurt or after_s is None else self.started + after_s

    def strike(self) -> None:
        self.hurt = True
        assert self.fault.signal is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process, self.fault.signal)

    def decide(self, call: Call) -> None:
        """Note a call that waits, and let it go on or not."""
        assert self.listener is not None
        if call.path.startswith(f"{self.folder}/"):
            number = len(self.calls)
            self.calls.append(f"{call.name} {call.path[len(self.folder) + 1 :]}")
            if number == self.fault.call and self.fault.signal is not None:
                self.strike()
                if self.fault.signal == signal.SIGKILL:
                    return  # unanswered, for it to die in its call: answered, it might finish that
            if self.fault.error and self.fault.call is not None and number >= self.fault.call:
                self.hurt |= number == self.fault.call
                if number == self.fault.call or call.name in FILLS_DISK:
                    answer(self.listener, call, self.fault.error)
                    return
        answer(self.listener, call)

    def outcome(self) -> dict[str, object]:
        out, err = (self.said[pipe].decode(errors="replace") for pipe in self.pipes)
        return {
            "status": self.status, "out": out, "err": err, "seconds": self.seconds,
            "calls": self.calls, "hurt": self.hurt, "hung": self.hung,
            "peak_bytes": self.peak_bytes,
        }  # fmt: skip


def start(task: dict[str, Any]) -> Child:
    fault = Fault(**task["fault"])
    ours, theirs = socket.socketpair()
    out, err = os.pipe(), os.pipe()
    started = time.monotonic()
    process = os.fork()
    if process == 0:
        ours.close()
        become(task, fault, theirs, out[1], err[1])
    theirs.close()
    os.close(out[1])
    os.close(err[1])
    ended = os.pidfd_open(process)
    listener = None
    if fault.traps:
        _, found, _, _ = socket.recv_fds(ours, 1, 1)
        listener = found[0] if found else None
    ours.close()
    child = Child(
        process,
        os.path.realpath(task["folder"]),
        fault,
        ended,
        (out[0], err[0]),
        listener,
        started,
    )
    child.said = {pipe: bytearray() for pipe in child.pipes}
    return child


def become(task: dict[str, Any], fault: Fault, parent: socket.socket, out: int, err: int) -> None:
    """The command, in the child; ends the process as the command line itself does."""
    os.setsid()
    os.chdir(task["folder"])
    sys.path.insert(0, task["folder"])
    os.environ.update(task.get("environment", {}))
    nowhere = os.open(os.devnull, os.O_RDONLY)
    for new, old in ((nowhere, 0), (out, 1), (err, 2)):
        os.dup2(new, old)
    # The zygote's own may be of files, and remember that they were.
    sys.stdout = io.TextIOWrapper(open(1, "wb", closefd=False))  # noqa: SIM115
    sys.stderr = io.TextIOWrapper(
        open(2, "wb", closefd=False),  # noqa: SIM115
        line_buffering=True,
    )
    sys.__dict__.update(__stdout__=sys.stdout, __stderr__=sys.stderr)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if fault.file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.file_bytes, fault.file_bytes))
    if fault.memory_bytes is not None:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + fault.memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    if fault.traps:
        listener = set_traps()
        socket.send_fds(parent, [b"."], [listener])
        os.close(listener)
    parent.close()
    if task.get("before"):
        exec(task["before"], {})
    from mixq.cli.main import main

    main(task["arguments"])


def watch(children: list[Child]) -> None:
    """Until all have ended."""
    poll = select.poll()
    owner: dict[int, Child] = {}
    for child in children:
        for descriptor in (child.ended, *child.pipes, child.listener):
            if descriptor is not None:
                poll.register(descriptor, select.POLLIN)
                owner[descriptor] = child
    while owner:
        dues = [due for child in children if (due := child.due_s) and child.status is None]
        pause_s = max(0.0, min(dues, default=time.monotonic() + 1.0) - time.monotonic())
        ready = poll.poll(1000 * pause_s if pause_s > 0.001 else 0)
        now = time.monotonic()
        for child in children:
            if child.status is None and child.due_s is not None and now >= child.due_s:
                child.strike()
            if child.status is None and now > child.started + LONGEST_S:
                child.hung = True
                os.kill(child.process, signal.SIGKILL)
        for descriptor, event in ready:
            handle(owner, poll, descriptor, event)


def handle(owner: dict[int, Child], poll: select.poll, descriptor: int, event: int) -> None:
    child = owner[descriptor]
    over = False
    if descriptor == child.ended:
        _, status, used = os.wait4(child.process, 0)
        child.status = os.waitstatus_to_exitcode(status)
        child.seconds = time.monotonic() - child.started
        child.peak_bytes = used.ru_maxrss * 1024
        over = True
    elif descriptor == child.listener:
        if event & select.POLLIN:
            if (call := receive(descriptor)) is not None:
                child.decide(call)
        else:  # nobody is left who could ask
            over = True
    else:
        data = os.read(descriptor, 1 << 16)
        child.said[descriptor] += data
        over = not data
    if over:
        poll.unregister(descriptor)
        del owner[descriptor]
        os.close(descriptor)


def serve() -> None:
    import torch

    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "import" in request:
            for name in request["import"]:
                with contextlib.suppress(ImportError):
                    importlib.import_module(name)
            gc.collect()
            gc.freeze()
            print("{}", flush=True)
            continue
        children = [start(task) for task in request["tasks"]]
        watch(children)
        print(json.dumps([child.outcome() for child in children]), flush=True)


if __name__ == "__main__":
    serve()
