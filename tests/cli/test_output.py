"""stdout and stderr as other programs meet them: pipes that close, disks that fill, terminals."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MIXQ = [sys.executable, "-c", "from mixq.cli import main; main()"]
SHOW = [*MIXQ, "plan", "show"]


@pytest.fixture(autouse=True)
def buffered(monkeypatch: pytest.MonkeyPatch) -> None:
    """As users run it: what is left in a buffer is written, or fails, when Python exits."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)


@pytest.fixture
def plan(demo_run: Path) -> str:
    return str(demo_run / "plan.json")


# Little text stays in the buffer until it is flushed, much is written at once.
COMMANDS = [("--version",), ("hardware", "list", "--format", "json"), ("plan", "show", "PLAN")]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_reader_that_goes_away(plan: str, command: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    arguments = [plan if part == "PLAN" else part for part in command]
    done = subprocess.run([*MIXQ, *arguments], stdout=write, stderr=subprocess.PIPE, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("command", [*COMMANDS, ("--help",)], ids=lambda command: command[0])
def test_a_full_disk_behind_stdout(plan: str, command: tuple[str, ...]) -> None:
    arguments = [plan if part == "PLAN" else part for part in command]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*MIXQ, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "No space left on device" in done.stderr
    assert done.stderr.count("\n") == 1


def test_stdout_is_closed(plan: str) -> None:
    done = subprocess.run(
        [*SHOW, plan], preexec_fn=lambda: os.close(1), stderr=subprocess.PIPE, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_stderr_is_closed() -> None:
    done = subprocess.run(
        [*MIXQ, "nonsense"], preexec_fn=lambda: os.close(2), stdout=subprocess.PIPE, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, b"")


def test_a_terminal_without_unicode(plan: str) -> None:
    done = subprocess.run(
        [*SHOW, plan],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.isascii()
    assert b"+------" in done.stdout


def test_a_terminal_gets_its_width_and_colours(
    cli: Callable[..., Any], plan: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [*SHOW, plan],
        env={**os.environ, "COLUMNS": "90", "TERM": "xterm-256color"},
        stdout=child,
    )
    os.close(child)
    shown = b""
    try:
        while chunk := os.read(parent, 65536):
            shown += chunk
    except OSError:  # Linux: the other side has closed
        pass
    os.close(parent)
    assert process.wait(timeout=60) == 0
    assert b"\x1b[32m" in shown
    assert cli("plan", "show", plan).out.count("\x1b") == 0
